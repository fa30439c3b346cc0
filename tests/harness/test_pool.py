"""A campaign together finds what no case finds alone, and finds nothing in legal executions."""

import dataclasses
import random

import pytest

from harness.alarms import CAPACITY, FALSE_ALARMS, PER_TEST, limit_of, pooled_limit
from harness.pool import failing, pooled
from harness.records import Aggregate, Judgement, Record, Verdict
from tests.reports.samples import record

CASES = 200
ERROR = 1e-3


def judged(gain: float, *, nearest: float = 0.0, name: str = "gain", verdict: Verdict = Verdict.PASS) -> Record:
    test = Aggregate(name=name, value=gain, limit=8 * ERROR, error=ERROR, nearest=nearest, weight=ERROR**-2)
    reason = "" if verdict is Verdict.PASS else "it says why"
    return record(judgements=[Judgement(output="out", verdict=verdict, reason=reason, aggregates=(test,))])


def campaign(shift: float, *, seed: int = 1) -> list[Record]:
    """Returns a campaign whose gains are off by ``shift`` in the mean, an eighth of what one case could see."""
    draw = random.Random(seed)
    return [judged(draw.gauss(shift, ERROR)) for _ in range(CASES)]


def test_a_gain_below_the_resolution_of_every_case_is_found_in_the_pool() -> None:
    records = campaign(ERROR)
    assert all(abs(item.judgements[0].aggregates[0].value) < 8 * ERROR for item in records)
    (test,) = pooled(records)
    assert test.verdict is Verdict.FAIL_NUMERIC
    assert failing([test]) == {"triton-bf16": [test]}


@pytest.mark.parametrize("seed", range(20))
def test_legal_gains_pass_in_the_pool(seed: int) -> None:
    (test,) = pooled(campaign(0.0, seed=seed))
    assert test.verdict is Verdict.PASS


def test_what_nearest_executions_show_in_every_case_is_granted() -> None:
    draw = random.Random(2)
    records = [judged(draw.gauss(ERROR, ERROR), nearest=ERROR) for _ in range(CASES)]
    assert pooled(records)[0].verdict is Verdict.PASS


def test_what_nearest_executions_show_with_either_sign_is_not_granted_in_the_mean() -> None:
    draw = random.Random(3)
    records = [judged(draw.gauss(ERROR, ERROR), nearest=ERROR * (-1) ** index) for index in range(CASES)]
    assert pooled(records)[0].verdict is Verdict.FAIL_NUMERIC


def test_the_resolution_grows_with_the_root_of_the_cases() -> None:
    few, many = (pooled([judged(0.0)] * count)[0].limit for count in (25, 100))
    assert few == pytest.approx(2 * many)


def test_an_estimate_that_happens_to_be_tiny_does_not_decide_alone() -> None:
    lucky = judged(0.5 * ERROR)
    item = lucky.judgements[0]
    tiny = dataclasses.replace(item.aggregates[0], error=ERROR * 1e-6)
    records = [*campaign(0.0), dataclasses.replace(lucky, judgements=[dataclasses.replace(item, aggregates=(tiny,))])]
    assert pooled(records)[0].verdict is Verdict.PASS


def test_cases_that_fail_alone_are_not_pooled() -> None:
    records = [*campaign(0.0), *[judged(9 * ERROR, verdict=Verdict.FAIL_NUMERIC)] * 50]
    (test,) = pooled(records)
    assert (test.cases, test.verdict) == (CASES, Verdict.PASS)


def test_smaller_errors_than_the_recipe_allows_are_no_fault() -> None:
    assert pooled([judged(-5 * ERROR, name="spread")] * CASES)[0].verdict is Verdict.PASS
    assert pooled([judged(5 * ERROR, name="spread")] * CASES)[0].verdict is Verdict.FAIL_NUMERIC


def test_the_number_of_tests_does_not_depend_on_what_came_out() -> None:
    all_pass = [judged(0.0), judged(0.0, name="lean")]
    one_fails = [judged(0.0), judged(0.0, name="lean", verdict=Verdict.FAIL_NUMERIC)]
    assert pooled(all_pass)[0].limit == pooled(one_fails)[0].limit


def test_the_shares_add_up_to_the_budget() -> None:
    assert pytest.approx(FALSE_ALARMS / 2) == CAPACITY * PER_TEST
    assert pooled_limit(1000) == limit_of(FALSE_ALARMS / 2 / 1000)
