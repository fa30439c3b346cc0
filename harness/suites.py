"""Fixed lists of cases, for those who want the same cases every time.

``past`` is read from a file beside this one: cases that failed once, rightly or not, and the hardest that a search came
to. Each says why it is there. Whoever mends a false alarm or a missed fault adds the case that showed it.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from harness.errors import UsageError, nearest
from harness.hardest import read_lines
from harness.operations.base import Operation
from harness.operations.case import Case
from harness.strategies import DTYPES, draw_cases

__all__ = ["PAST", "SUITES", "WIDTHS", "Past", "read_past", "suite"]

WIDTHS = (40, 64, 72, 80, 96, 104, 128, 192, 256)
"""Head widths of attention that kernels have been wrong at, and those of every day."""

PAST = Path(__file__).parent / "corpus" / "past.jsonl"
"""The committed file of past failures and hard cases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """A case that is judged again for ever.

    Attributes:
        case: the case.
        why: what happened on it, for people: ``bf16 delta rule, beta_one: ratio 1.13``.
        found: the day.
    """

    case: Case
    why: str
    found: date


@functools.cache
def read_past(path: Path = PAST) -> tuple[Past, ...]:
    """Returns the cases of the suite ``past``.

    Raises:
        UsageError: no such file, a broken line, an unknown field, no reason, no day, or a case that is there twice.
    """
    entries: dict[str, Past] = {}
    for number, data in enumerate(read_lines(path, ("case", "why", "found"), "past"), start=1):
        case, why, found = data["case"], data["why"], data["found"]
        place = f"past: {path} case {number}"
        if not isinstance(why, str) or not why.strip():
            raise UsageError(f"{place}, why: got {why!r}, expected a sentence")
        try:
            day = date.fromisoformat(found)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{place}, found: got {found!r}, expected a day such as '2026-11-26'") from error
        if case.case_id in entries:
            raise UsageError(f"{place}: got {case.to_line()} a second time, expected every case once")
        entries[case.case_id] = Past(case=case, why=why, found=day)
    return tuple(entries.values())


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


def _widths(row: Operation) -> list[Case]:
    """Returns attention at every head width that kernels have been wrong at, causal and not, also with a scale of 1."""
    fields = row.case.__dataclass_fields__
    if not {"head_dim", "value_dim", "scale"} <= fields.keys():
        return []
    return [
        case.replaced(head_dim=width, value_dim=width, scale=scale, regime="normal", seed=case.seed + width)
        for dtype in DTYPES
        for width in WIDTHS
        for scale, case in zip(
            (None, 1.0), draw_cases(row, 2, seed_value=19 + width, dtypes=[dtype], largest=150), strict=True
        )
    ]


def _past(row: Operation) -> list[Case]:
    """Returns what failed or was hard in the past."""
    return [entry.case for entry in read_past() if entry.case.op == row.name]


SUITES: Mapping[str, Callable[[Operation], list[Case]]] = {
    "smoke": _smoke,
    "regimes": _regimes,
    "boundaries": _boundaries,
    "widths": _widths,
    "past": _past,
}


def suite(name: str, row: Operation) -> list[Case]:
    """Returns the cases of a suite for an operation.

    Raises:
        UsageError: there is no suite of this name.
    """
    if name not in SUITES:
        raise UsageError(f"--suite: got {name!r}, expected one of {', '.join(SUITES)}{nearest(name, SUITES)}")
    return SUITES[name](row)
