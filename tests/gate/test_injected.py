"""Injected regressions trip the gate; a tree that did not change does not. 50 runs: ``python -m tests.gate.runs``."""

import pytest

from reports.gate import Evidence
from tests.gate.runs import Gated, compared


@pytest.fixture(scope="module")
def before(gated: Gated) -> Evidence:
    return gated.campaign("CANDIDATES", 0)


@pytest.mark.parametrize(
    ("name", "seed", "words"),
    [
        ("GAIN", 0, "out: gain over all cases moved away from 0"),
        ("GAIN", 1, "out: gain over all cases moved away from 0"),
        ("NO_GRADIENT", 0, "grad:x is lost, was judged on 24 cases"),
        ("NO_GRADIENT", 1, "grad:x is missing on more cases, was 0 of 24, is 24 of 24"),
        ("REFUSING", 0, "24 cases that it took are declined now: channels: got"),
        ("REFUSING", 1, "UNSUPPORTED on more cases, was 0 of 24, is 24 of 24"),
    ],
)
def test_a_regression_that_fails_no_case_trips(
    gated: Gated, before: Evidence, name: str, seed: int, words: str
) -> None:  # fmt: skip
    now = gated.campaign(name, seed)
    assert [record.verdict for record in now.records if record.verdict.is_failure] == []
    found = [trip for trip in compared(now, before) if words in trip.sentence]
    assert len(found) >= 1
    assert found[0].command.startswith("attest replay '{")


@pytest.mark.parametrize("seed", [0, 5, 6])
def test_an_unchanged_tree_trips_nothing(gated: Gated, before: Evidence, seed: int) -> None:
    assert compared(gated.campaign("CANDIDATES", seed), before) == []


def test_a_kernel_that_takes_a_tenth_longer_trips_and_one_as_fast_does_not(gated: Gated) -> None:
    before = gated.timed("AS_FAST", repeats=301)
    assert compared(gated.timed("AS_FAST", repeats=301), before) == []
    found = [trip.sentence for trip in compared(gated.timed("SLOWER", repeats=301), before)]
    assert len(found) == 1
    assert "silu_mul/kernel forward beside kernel-before is SLOWER: its ratio was" in found[0]
