"""Two samples, before and now: how likely an unchanged tree shows a difference like theirs. Standard library only.

Every test gives a probability, and all tests of one gate share one false-alarm budget evenly (``share``): the gate
calls an unchanged tree worse once in a million times, however much it compares. Nothing here is a threshold that a
person picked.

- ``larger``: the one-sided two-sample test of Smirnov, exact, by counting lattice paths (Hodges, "The significance
  probability of the Smirnov two-sample test", Arkiv for Matematik 3, 1958). It assumes nothing about the distribution;
  ties make it rarer to alarm.
- ``more_often``: Fisher's exact test of two counts.
- ``apart``: two estimates with known standard errors; normal, because each is a mean of many roundings.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

from harness.alarms import FALSE_ALARMS

__all__ = ["apart", "larger", "more_often", "share"]


_MANY, _PLAIN = 2_500, 0.01
"""Paths of more steps take time to count; above this probability, which is far from every share, what the distribution
tends to for large samples says enough."""


def share(tests: int) -> float:
    """Returns the false-alarm probability of each of so many tests."""
    return FALSE_ALARMS / max(tests, 1)


def larger(before: Sequence[float], now: Sequence[float]) -> float:
    """Returns how likely it is that values of one distribution look so much larger now.

    Args:
        before: values, in any order.
        now: values, in any order.
    """
    m, n = len(before), len(now)
    if not m or not n:
        return 1.0
    first, second = sorted(before), sorted(now)
    distance = i = j = 0
    for value in sorted({*first, *second}):
        while i < m and first[i] <= value:
            i += 1
        while j < n and second[j] <= value:
            j += 1
        distance = max(distance, i * n - j * m)
    limiting = math.exp(-2 * (distance / (m * n)) ** 2 * m * n / (m + n))
    if m * n > _MANY and limiting > _PLAIN:
        return limiting
    # Paths from (0, 0) to (m, n) by unit steps; those that never come as far as the distance seen are inside.
    inside = [1] + [0] * n
    for i in range(m + 1):
        for j in range(n + 1):
            if i or j:
                come = (inside[j] if i else 0) + (inside[j - 1] if j else 0)
                inside[j] = come if i * n - j * m < distance else 0
    total = math.comb(m + n, m)
    return float(Fraction(total - inside[n], total))


def more_often(before: tuple[int, int], now: tuple[int, int]) -> float:
    """Returns how likely it is that something equally rare happens so much more often now.

    Args:
        before: how often, of how many.
        now: how often, of how many.
    """
    (k, n), (k_now, n_now) = before, now
    events, total = k + k_now, n + n_now
    ways = sum(math.comb(n_now, each) * math.comb(n, events - each) for each in range(k_now, min(events, n_now) + 1))
    return float(Fraction(ways, math.comb(total, events)))


def apart(before: tuple[float, float], now: tuple[float, float]) -> float:
    """Returns how likely it is that two estimates of one number are so far apart, on either side.

    Args:
        before: estimate and standard error.
        now: estimate and standard error.
    """
    spread = math.hypot(before[1], now[1])
    if not spread > 0:
        return 1.0
    return math.erfc(abs(now[0] - before[0]) / spread / math.sqrt(2))
