"""Fixed lists of cases, for those who want the same cases every time."""

from collections.abc import Callable, Mapping

from harness.errors import UsageError, nearest
from harness.operations.base import Operation
from harness.operations.case import Case
from harness.strategies import DTYPES, draw_cases

__all__ = ["SUITES", "suite"]


def _smoke(row: Operation) -> list[Case]:
    """Returns three small cases per dtype."""
    return [case for dtype in DTYPES for case in draw_cases(row, 3, seed_value=11, dtypes=[dtype], largest=20)]


def _regimes(row: Operation) -> list[Case]:
    """Returns every regime in every dtype."""
    return [
        case
        for regime in row.case.regimes
        for dtype in DTYPES
        for case in draw_cases(row, 1, seed_value=13, dtypes=[dtype], regimes=[regime], largest=70)
    ]


def _boundaries(row: Operation) -> list[Case]:
    """Returns cases at the tile edges: many draws, the largest sizes kept small."""
    return [
        case
        for largest in (1, 2, 17, 33, 65, 129)
        for dtype in DTYPES
        for case in draw_cases(row, 2, seed_value=17, dtypes=[dtype], largest=largest)
    ]


SUITES: Mapping[str, Callable[[Operation], list[Case]]] = {
    "smoke": _smoke,
    "regimes": _regimes,
    "boundaries": _boundaries,
}


def suite(name: str, row: Operation) -> list[Case]:
    """Returns the cases of a suite for an operation.

    Raises:
        UsageError: there is no suite of this name.
    """
    if name not in SUITES:
        raise UsageError(f"--suite: got {name!r}, expected one of {', '.join(SUITES)}{nearest(name, SUITES)}")
    return SUITES[name](row)
