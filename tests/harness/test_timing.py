import math
from collections.abc import Callable

import pytest
import torch

from harness.timing import compare, interval, time_pair

COUNTS = (8, 11, 21, 31, 64)


def coverage(count: int, low: int, high: int) -> float:
    """Returns the probability that the median lies between two order statistics of independent values.

    Exact for any continuous distribution: as many of ``count`` values lie below the median as heads fall.

    Args:
        count: number of values.
        low: rank of the lower one, from 0.
        high: rank of the upper one, from 0.
    """
    return sum(math.comb(count, below) for below in range(low + 1, high + 1)) / 2.0**count


def ranks(count: int) -> tuple[int, int]:
    """Returns the ranks, from 0, of the interval of that many values."""
    _, low, high = interval([float(value) for value in range(count)])
    return int(low), int(high)


@pytest.mark.parametrize("count", COUNTS)
def test_the_interval_covers_the_median_with_at_least_99_percent(count: int) -> None:
    assert coverage(count, *ranks(count)) >= 0.99


@pytest.mark.parametrize("count", COUNTS)
def test_no_narrower_interval_would(count: int) -> None:
    low, high = ranks(count)
    assert coverage(count, low + 1, high - 1) < 0.99


@pytest.mark.parametrize("count", [1, 2, 7])
def test_of_few_values_the_interval_is_the_whole_range(count: int) -> None:
    assert ranks(count) == (0, count - 1)


def test_the_interval_covers_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    trials, count = 2000, 21
    drawn = torch.rand(trials, count, generator=generator, dtype=torch.float64).exp()
    covered = 0
    for row in drawn:
        _, low, high = interval(row.tolist())
        covered += low <= math.exp(0.5) <= high
    expected = coverage(count, *ranks(count))
    # Five standard deviations of a binomial number of hits.
    spread = 5 * math.sqrt(trials * expected * (1 - expected))
    assert abs(covered - trials * expected) <= spread


def noisy(seed: int, factor: float, *, noise: float) -> tuple[list[float], list[float]]:
    """Returns times of a candidate and of a baseline on a machine whose speed drifts, the same for both."""
    generator = torch.Generator().manual_seed(seed)
    drift = torch.randn(31, generator=generator, dtype=torch.float64).cumsum(0).mul(0.1).exp()
    own = torch.randn(2, 31, generator=generator, dtype=torch.float64).mul(noise).exp()
    return (factor * drift * own[0]).tolist(), (drift * own[1]).tolist()


@pytest.mark.parametrize(
    ("factor", "verdict"), [(0.5, "FASTER"), (0.95, "FASTER"), (1.0, "SAME"), (1.05, "SLOWER"), (2.0, "SLOWER")]
)
def test_a_clear_ratio_is_called_by_its_name(factor: float, verdict: str) -> None:
    assert compare(*noisy(1, factor, noise=0.005))[-1] == verdict


def test_noise_is_ambiguous() -> None:
    assert compare(*noisy(2, 1.0, noise=0.5))[-1] == "AMBIGUOUS"


@pytest.mark.parametrize("seed", range(20))
def test_equal_arms_are_never_called_faster_or_slower(seed: int) -> None:
    assert compare(*noisy(seed, 1.0, noise=0.1))[-1] in {"SAME", "AMBIGUOUS"}


def test_a_ratio_is_the_inverse_of_the_other_way_round() -> None:
    ours, theirs = noisy(3, 1.3, noise=0.1)
    ratio, low, high, _ = compare(ours, theirs)
    back, back_low, back_high, _ = compare(theirs, ours)
    # One exponential each, of numbers below 1: a few units in the last place.
    assert (1 / back, 1 / back_high, 1 / back_low) == pytest.approx((ratio, low, high), rel=16 * 2**-53)


def test_the_arms_take_turns_that_reverse_every_round() -> None:
    calls: list[str] = []
    arms: list[Callable[[], object]] = [lambda: calls.append("a"), lambda: calls.append("b")]
    seconds = time_pair(arms, repeats=3, synchronize=lambda: None)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert [len(arm) for arm in seconds] == [3, 3]


def test_the_device_is_waited_for_inside_the_measured_time() -> None:
    order: list[str] = []
    time_pair([lambda: order.append("call")], repeats=2, synchronize=lambda: order.append("wait"))
    assert order == ["call", "wait"] * 3


def test_a_callable_beside_itself_is_neither_faster_nor_slower() -> None:
    x = torch.ones(64, 64)
    arms = [lambda: x @ x, lambda: x @ x]
    assert compare(*time_pair(arms, repeats=31, synchronize=lambda: None))[-1] in {"SAME", "AMBIGUOUS"}
