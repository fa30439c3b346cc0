from collections.abc import Callable

import pytest

from harness.cases import case_from_data
from harness.operations.case import Case
from harness.ops import OPS
from harness.records import Record, Verdict
from harness.shrink import shrink, simpler
from harness.strategies import draw_cases
from tests.harness.test_records import record

LARGE = case_from_data({
    "op": "attention", "dtype": "bfloat16", "layout": "fused", "regime": "peaky", "cotangent": "one_hot", "seed": 1234,
    "batch": 2, "query_tokens": 65, "key_tokens": 97, "key_heads": 2, "group": 3, "head_dim": 72, "value_dim": 40,
    "window_left": 7, "window_right": 0, "sinks": True, "key_mask": True, "bias": "full", "scale": 0.25,
})  # fmt: skip
PACKED = case_from_data({
    "op": "varlen_attention", "query_lengths": [5, 0, 33, 2], "key_lengths": [5, 7, 33, 2], "key_heads": 2, "group": 2,
    "head_dim": 8, "value_dim": 8,
})  # fmt: skip


def judging(
    fails: Callable[[Case], bool], asked: list[Case], verdict: Verdict = Verdict.FAIL_NUMERIC
) -> Callable[[Case], Record]:
    """Returns a judge by whom a case fails where the predicate holds; what it was asked is appended."""

    def judge(case: Case) -> Record:
        asked.append(case)
        if fails(case):
            return record(case=case.to_data(), verdict=verdict, reason="it fails")
        return record(case=case.to_data())

    return judge


def shrunk(case: Case, fails: Callable[[Case], bool]) -> Case:
    return case_from_data(shrink(case, judging(fails, []), attempts=1000).case)


def test_a_case_that_always_fails_shrinks_to_the_simplest() -> None:
    simplest = case_from_data({
        "op": "attention", "dtype": "bfloat16", "batch": 1, "query_tokens": 1, "key_tokens": 1, "key_heads": 1,
        "group": 1, "head_dim": 1, "value_dim": 1,
    })  # fmt: skip
    assert shrunk(LARGE, lambda _: True) == simplest


def test_what_a_failure_needs_is_kept() -> None:
    def fails(case: Case) -> bool:
        data = case.to_data()
        return bool(data["sinks"]) and data["query_tokens"] >= 17 and data["group"] >= 2

    data = shrunk(LARGE, fails).to_data()
    assert (data["sinks"], data["query_tokens"], data["group"], data["key_tokens"]) == (True, 17, 2, 1)


def test_packed_sequences_shrink_in_pairs() -> None:
    data = shrunk(PACKED, lambda case: max(case.to_data()["query_lengths"]) >= 9).to_data()
    assert (data["query_lengths"], data["key_lengths"]) == ([9], [9])


def test_the_shrunk_case_fails() -> None:
    assert shrink(LARGE, judging(lambda case: case.to_data()["batch"] == 2, [])).verdict is Verdict.FAIL_NUMERIC


def test_a_failure_of_another_kind_is_not_followed() -> None:
    def judge(case: Case) -> Record:
        small = case.to_data()["query_tokens"] < 65
        return record(case=case.to_data(), verdict=Verdict.ERROR if small else Verdict.FAIL_NUMERIC, reason="it fails")

    assert case_from_data(shrink(LARGE, judge, attempts=1000).case).to_data()["query_tokens"] == 65


def test_a_case_that_fails_no_longer_is_returned_as_it_is() -> None:
    asked: list[Case] = []
    result = shrink(LARGE, judging(lambda _: False, asked))
    assert (result.verdict, asked) == (Verdict.PASS, [LARGE])


def test_no_more_calls_than_allowed_are_made() -> None:
    asked: list[Case] = []
    shrink(LARGE, judging(lambda case: case == LARGE, asked), attempts=7)
    assert len(asked) == 1 + 7


def test_no_case_is_judged_twice() -> None:
    asked: list[Case] = []
    shrink(LARGE, judging(lambda case: case.to_data()["head_dim"] > 3, asked), attempts=1000)
    assert len({case.case_id for case in asked}) == len(asked)


@pytest.mark.parametrize("op", OPS)
def test_the_dtype_is_never_changed(op: str) -> None:
    case = draw_cases(OPS[op], 1, seed_value=3, dtypes=["float16"])[0]
    assert {each.dtype for each in simpler(case)} == {"float16"}


@pytest.mark.parametrize("op", OPS)
def test_shrinking_ends_for_every_operation(op: str) -> None:
    case = draw_cases(OPS[op], 1, seed_value=5, largest=60)[0]
    asked: list[Case] = []
    shrink(case, judging(lambda _: True, asked), attempts=1000)
    assert len(asked) < 1000
