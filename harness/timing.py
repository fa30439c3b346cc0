"""Times callables in pairs: interleaved A B B A, so that a machine that drifts or is shared slows both alike."""

import math
import statistics
import time
from collections.abc import Callable, Sequence

__all__ = ["BASELINE", "SAME", "compare", "interval", "time_pair", "verdict_of"]

BASELINE = "reference-fp64"
"""Name of the arm that is the float64 reference on the same case: the honest slow baseline."""

_CONFIDENCE = 0.99
SAME = 0.02
"""Ratios within 2 % are called SAME: below that a paired measurement on a shared machine is not repeatable."""


def time_pair(
    arms: Sequence[Callable[[], object]], *, repeats: int, synchronize: Callable[[], None]
) -> list[list[float]]:  # fmt: skip
    """Returns the times of each arm in seconds, ``repeats`` of each, taken in turns that reverse every round."""
    for arm in arms:
        arm()
    synchronize()
    seconds: list[list[float]] = [[] for _ in arms]
    order = list(range(len(arms)))
    for _ in range(repeats):
        for index in order:
            started = time.perf_counter()
            arms[index]()
            synchronize()
            seconds[index].append(time.perf_counter() - started)
        order.reverse()
    return seconds


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Returns median, low and high: an order-statistic interval of the median, which assumes no distribution.

    The ranks are the narrowest pair whose binomial coverage is at least 99 %; with too few values the whole range.
    """
    ordered = sorted(values)
    count = len(ordered)
    outside = 0.0
    rank = 0
    for below in range(count // 2):
        outside += 2 * math.comb(count, below) * 0.5**count
        if outside > 1 - _CONFIDENCE:
            break
        rank = below + 1
    low = max(rank - 1, 0)
    return statistics.median(ordered), ordered[low], ordered[count - 1 - low]


def compare(candidate: Sequence[float], baseline: Sequence[float]) -> tuple[float, float, float, str]:
    """Returns the ratio candidate / baseline with its interval, and SAME, FASTER, SLOWER or AMBIGUOUS.

    Pairs are compared, round by round, on the logarithm of their ratio.
    """
    logs = [math.log(one / other) for one, other in zip(candidate, baseline, strict=True)]
    middle, low, high = interval(logs)
    verdict = verdict_of(low, high)
    return math.exp(middle), math.exp(low), math.exp(high), verdict


def verdict_of(low: float, high: float) -> str:
    """Returns SAME, FASTER, SLOWER or AMBIGUOUS of an interval of the logarithm of a ratio of times."""
    if high < -SAME:
        return "FASTER"
    if low > SAME:
        return "SLOWER"
    return "SAME" if low >= -SAME and high <= SAME else "AMBIGUOUS"
