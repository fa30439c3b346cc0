"""A search reaches a rare corner that as many drawn cases do not, and the same arguments lead to the same cases."""

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from harness.errors import TestbenchError
from harness.operations.case import Case
from harness.records import Record, Verdict
from harness.search import Space, explore, search
from harness.strategies import draw_cases
from tests.harness.searching import CASES, ROW, corner, record, searched

# -- the search --------


def test_searches_reach_a_corner_that_as_many_drawn_cases_do_not() -> None:
    seeds = (0, 3, 4)
    drawn = [draw_cases(ROW, CASES, seed_value=seed, dtypes=["float32"]) for seed in seeds]
    assert [max(map(corner, each)) > 1 for each in drawn] == [False] * len(seeds)
    reached = [max(map(corner, searched(corner, seed=seed, cases=CASES))) > 1 for seed in seeds]
    assert reached.count(True) >= 2


def test_the_same_seed_leads_to_the_same_cases() -> None:
    assert searched(corner, seed=3, cases=40) == searched(corner, seed=3, cases=40)


def test_another_seed_leads_to_other_cases() -> None:
    assert searched(corner, seed=3, cases=20) != searched(corner, seed=4, cases=20)


@pytest.mark.parametrize("count", [1, 15, 16, 33])
def test_as_many_cases_are_judged_as_were_asked_for_and_none_twice(count: int) -> None:
    met = searched(corner, seed=0, cases=count)
    assert len(met) == len({case.case_id for case in met}) == count


def test_a_search_keeps_to_its_dtype_its_regimes_and_its_largest_size() -> None:
    met = searched(lambda case: case.to_data()["tokens"], seed=1, cases=40, regimes=["large"], largest=9)
    assert {(case.dtype, case.regime) for case in met} == {("float32", "large")}
    assert max(case.to_data()["tokens"] for case in met) <= 9


def test_a_search_judges_first_what_it_starts_from() -> None:
    start = tuple(draw_cases(ROW, 3, seed_value=9, dtypes=["float32"]))
    assert tuple(searched(corner, seed=0, cases=5, start=start)[:3]) == start


def test_what_the_judge_raises_comes_out_of_the_search() -> None:
    def judge(_: Case) -> list[Record]:
        raise TestbenchError("a lane died")

    with pytest.raises(TestbenchError, match="a lane died"):
        search(Space(row=ROW, dtype="float32", seed=0, cases=3), judge)


def test_a_candidate_that_failed_hides_no_other() -> None:
    met: list[Case] = []

    def judge(case: Case) -> list[Record]:
        met.append(case)
        broken = record(case, 50.0, candidate="broken", verdict=Verdict.FAIL_NUMERIC)
        return [broken, record(case, corner(case), candidate="nearly-right")]

    search(Space(row=ROW, dtype="float32", seed=0, cases=60), judge)
    assert met == searched(corner, seed=0, cases=60)


# -- several at a time --------


def spaces() -> list[Space]:
    return [Space(row=ROW, dtype=dtype, seed=5, cases=12) for dtype in ("float32", "bfloat16")]


def explored(judge: Callable[[Case], Sequence[Record]]) -> Iterator[Record]:
    return explore(spaces(), judge)


def test_searches_beside_each_other_meet_the_cases_that_they_meet_alone() -> None:
    def judge(case: Case) -> list[Record]:
        return [record(case, corner(case))]

    alone = {item.case_id for space in spaces() for item in explore([space], judge)}
    assert {item.case_id for item in explored(judge)} == alone


def test_searches_wait_for_their_records_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=30)

    def judge(case: Case) -> list[Record]:
        both.wait()
        return [record(case, 0.5)]

    assert len(list(explored(judge))) == 24


def test_an_error_of_one_search_is_raised_where_the_records_are_read() -> None:
    def judge(case: Case) -> list[Record]:
        if case.dtype == "bfloat16":
            raise TestbenchError("a lane died")
        return [record(case, 0.5)]

    with pytest.raises(TestbenchError, match="a lane died"):
        list(explored(judge))
