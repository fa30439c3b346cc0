"""One false-alarm budget for a whole campaign, and what each test may spend of it. Standard library only.

A campaign may call a healthy kernel faulty with probability ``FALSE_ALARMS``, all its tests together. Half of that goes
to the tests of single cases, each of which gets ``PER_TEST``; so many are paid for that no campaign comes near
(``CAPACITY``). The other half goes to the tests that pool a whole campaign, split evenly over as many as there are. A
test that looks at ``n`` slices splits its share once more (Bonferroni), because any of them could raise the alarm.

The limit that belongs to a share is a quantile of the normal distribution: an aggregate is a sum of many roundings.
"""

from functools import cache
from statistics import NormalDist

__all__ = ["CAPACITY", "FALSE_ALARMS", "PER_TEST", "limit_of", "pooled_limit"]

FALSE_ALARMS = 1e-6
"""Probability that a campaign over healthy kernels calls one of them faulty."""

PER_TEST = 1e-13
"""Share of one aggregate test of one tensor of one case."""

CAPACITY = round(FALSE_ALARMS / 2 / PER_TEST)
"""Aggregate tests of single cases that half of the budget pays for: five million, some hundred thousand records."""


@cache
def limit_of(share: float) -> float:
    """Returns by how many standard errors a healthy aggregate is off with probability ``share``, on either side.

    Args:
        share: between 0 and 1.
    """
    return -NormalDist().inv_cdf(share / 2)


def pooled_limit(tests: int) -> float:
    """Returns the same for one of so many tests that pool a campaign."""
    return limit_of(FALSE_ALARMS / 2 / max(tests, 1))
