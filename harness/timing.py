"""Statistics of paired times: intervals of ratios that assume no distribution, and verdicts that the noise is part of.

A comparison has three arms: candidate, baseline, and the baseline again. What the two equal arms differ by is the
machine's noise in the very same rounds; a candidate is called faster or slower only beyond it. Standard library only.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["BASELINE", "FEWEST", "SAME", "Ratio", "compare", "interval", "is_settled", "noise_of", "verdict_of"]

BASELINE = "reference-fp64"
"""Name of the arm that is the float64 reference on the same case: the honest slow baseline."""

SAME = 0.02
"""Smallest effect that is called by a name: ratios within 2 % are SAME, below that nothing is repeatable."""

FEWEST = 8
"""Rounds from which on an order-statistic interval of 99 % exists: 2 * 0.5**8 is below 1 %."""

_CONFIDENCE = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """The ratio candidate / baseline of times.

    Attributes:
        ratio: median over the rounds.
        low: lower end of its interval.
        high: upper end of its interval.
        noise: largest logarithm that the interval of the baseline beside itself reaches.
        verdict: SAME, FASTER, SLOWER or AMBIGUOUS.
    """

    ratio: float
    low: float
    high: float
    noise: float
    verdict: str


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


def compare(candidate: Sequence[float], baseline: Sequence[float], *, noise: float) -> Ratio:
    """Returns the ratio candidate / baseline; rounds are compared one by one, on the logarithm of their ratio.

    Args:
        candidate: its times, one per round.
        baseline: those of the baseline in the same rounds.
        noise: what two equal arms differ by in the same rounds, see ``noise_of``.
    """
    middle, low, high = interval(_logs(candidate, baseline))
    # Of fewer rounds the whole range covers the median too seldom to be believed.
    verdict = verdict_of(low, high, noise) if len(baseline) >= FEWEST else "AMBIGUOUS"
    return Ratio(ratio=math.exp(middle), low=math.exp(low), high=math.exp(high), noise=noise, verdict=verdict)


def noise_of(baseline: Sequence[float], again: Sequence[float]) -> float:
    """Returns the largest absolute logarithm in the interval of a ratio whose truth is 1."""
    _, low, high = interval(_logs(again, baseline))
    return max(abs(low), abs(high))


def is_settled(baseline: Sequence[float], again: Sequence[float]) -> bool:
    """Returns whether the noise is far below the smallest effect, so that more rounds would tell nothing more.

    Only the two equal arms are looked at: a stop that looked at the candidate would choose its verdict.
    """
    return noise_of(baseline, again) <= SAME / 2


def verdict_of(low: float, high: float, noise: float = 0.0) -> str:
    """Returns SAME, FASTER, SLOWER or AMBIGUOUS of an interval of the logarithm of a ratio of times.

    FASTER and SLOWER: the whole interval is beyond the smallest effect and beyond the noise. SAME: the interval and the
    noise are within the smallest effect.

    Args:
        low: lower end.
        high: upper end.
        noise: largest logarithm that the interval of two equal arms reaches.
    """
    beyond = max(SAME, noise)
    if high < -beyond:
        return "FASTER"
    if low > beyond:
        return "SLOWER"
    return "SAME" if max(-low, high, noise) <= SAME else "AMBIGUOUS"


def _logs(candidate: Sequence[float], baseline: Sequence[float]) -> list[float]:
    return [math.log(one / other) for one, other in zip(candidate, baseline, strict=True)]
