"""Every beginning of the main job's plan is like the whole: a run that is ended at its time is no one-sided one."""

from collections import Counter

import pytest

from harness.campaign import Item
from harness.candidates import find_candidates
from harness.cli.run import _plan
from harness.ops import OPS
from harness.profiles import profile
from harness.strategies import DTYPES


@pytest.fixture(scope="module")
def plan() -> list[Item]:
    return _plan(profile("gate"), list(find_candidates().candidates.values()), 0)


def shares(items: list[Item]) -> Counter[tuple[str, str]]:
    return Counter((item.case.op, item.case.dtype) for item in items)


def test_all_operations_and_formats_are_planned(plan: list[Item]) -> None:
    assert shares(plan).keys() == {(op, dtype) for op in OPS for dtype in DTYPES}


@pytest.mark.parametrize("part", [0.1, 0.25, 0.5, 0.9])
def test_a_beginning_has_every_operation_and_format_by_its_share(plan: list[Item], part: float) -> None:
    whole = shares(plan)
    begun = shares(plan[: round(part * len(plan))])
    assert max(abs(begun[key] - part * count) for key, count in whole.items()) <= 1


def test_a_beginning_has_every_candidate(plan: list[Item]) -> None:
    planned = {name for item in plan for name in item.candidates}
    assert {name for item in plan[: len(plan) // 5] for name in item.candidates} == planned
