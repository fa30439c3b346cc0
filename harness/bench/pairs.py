"""A candidate beside its baseline, and what it computed while it was timed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from harness.bench.stopwatch import prepared, time_rounds

__all__ = ["Call", "TimedPair", "timed_pair"]

Call = Callable[[], dict[str, Tensor | None]]
"""What is timed; it returns what it computed, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedPair:
    """What came of a pair.

    Attributes:
        seconds: per round, of the candidate, of the baseline, and of the baseline again.
        how: how the candidate was timed, see ``stopwatch.Arm``.
        results: what the candidate's last timed call returned.
    """

    seconds: Sequence[Sequence[float]]
    how: str
    results: dict[str, Tensor]


def timed_pair(
    candidate: Sequence[Call], baseline: Sequence[Call], device: str, *, rounds: int, most: int
) -> TimedPair:
    """Returns the times of both.

    Args:
        candidate: a call per set of inputs.
        baseline: the same.
        device: ``cpu`` or ``cuda``.
        rounds: how many at least.
        most: how many at most, while the noise is too large.
    """
    theirs, ours = (prepared(sets, device, graphs=True) for sets in (baseline, candidate))
    theirs_s, ours_s, again_s = time_rounds([theirs, ours], rounds=rounds, most=most)
    results = {name: item.detach() for name, item in ours.results[-1].items() if item is not None}
    return TimedPair(seconds=[ours_s, theirs_s, again_s], how=ours.how, results=results)
