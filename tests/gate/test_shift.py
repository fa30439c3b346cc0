"""The two-sample tests beside plain enumeration."""

import itertools
import math
import statistics
from fractions import Fraction

import pytest

from harness.alarms import FALSE_ALARMS, limit_of
from reports.gates.shift import apart, larger, more_often, share


def distance(before: tuple[int, ...], now: tuple[int, ...]) -> Fraction:
    """Returns by how much the distribution function of ``before`` is above that of ``now`` at most."""
    return max(
        Fraction(sum(each <= value for each in before), len(before))
        - Fraction(sum(each <= value for each in now), len(now))
        for value in (*before, *now)
    )


@pytest.mark.parametrize(
    ("before", "now"), [((0, 1, 2, 5), (3, 4, 6)), ((0, 1, 2), (3, 4, 5, 6, 7)), ((0, 2), (1, 3, 4))]
)
def test_larger_is_the_share_of_all_orders_as_far_apart(before: tuple[int, ...], now: tuple[int, ...]) -> None:
    values = range(len(before) + len(now))
    seen = distance(before, now)
    orders = list(itertools.combinations(values, len(before)))
    as_far = sum(distance(order, tuple(set(values) - set(order))) >= seen for order in orders)
    assert larger(before, now) == pytest.approx(as_far / len(orders))


def test_separate_samples_are_as_rare_as_can_be() -> None:
    assert larger([1.0] * 0 + list(range(20)), [100 + each for each in range(20)]) == 1 / math.comb(40, 20)


def test_smaller_values_are_no_regression() -> None:
    assert larger(range(100, 120), range(20)) == 1.0


def test_the_same_sample_is_no_regression() -> None:
    assert larger([1, 1, 2, 3], [3, 2, 1, 1]) == 1.0


@pytest.mark.parametrize(("before", "now"), [((0, 5), (3, 4)), ((1, 3), (2, 3)), ((2, 2), (0, 3))])
def test_more_often_is_the_share_of_all_orders_with_as_many(before: tuple[int, int], now: tuple[int, int]) -> None:
    events, total = before[0] + now[0], before[1] + now[1]
    orders = list(itertools.combinations(range(total), events))
    as_many = sum(sum(place >= before[1] for place in order) >= now[0] for order in orders)
    assert more_often(before, now) == pytest.approx(as_many / len(orders))


def test_apart_is_a_normal_tail_on_both_sides() -> None:
    expected = 2 * statistics.NormalDist().cdf(-3.0)
    assert apart((0.0, 3.0), (15.0, 4.0)) == pytest.approx(expected)
    assert apart((0.0, 0.6), (limit_of(FALSE_ALARMS), 0.8)) == pytest.approx(FALSE_ALARMS)


def test_all_tests_of_a_gate_share_one_budget() -> None:
    assert 7 * share(7) == pytest.approx(FALSE_ALARMS)
