"""Plays a catalogue in this process, with one worker."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from harness.execute import Worker
from harness.operations.case import Case
from harness.power.catalogue import entries, load_catalogue
from harness.power.measure import measure
from harness.power.profile import PowerProfile
from harness.power.resolution import Doses, smallest_doses
from harness.power.runs import Run, run_case
from harness.power.scoring import Pairs
from harness.power_results import FaultScore, PowerResults
from harness.verify import Settings

__all__ = ["SEEDED", "Here", "played", "score"]

SEEDED = Path(__file__).with_name("seeded.py")
"""The catalogue of these tests."""

_Item = TypeVar("_Item")


class Here:
    """Runs cases here instead of in lanes."""

    def __init__(self, worker: Worker, relations: str) -> None:
        self._worker = worker
        self._settings = Settings(plugin=str(SEEDED), limit_s=60.0, relations=relations)
        faults = load_catalogue(SEEDED).faults
        self._candidates = {item.name: item for each in entries(faults) for item in (each.wrong, each.healthy)}

    def power(self, items: Iterable[tuple[Case, Pairs]]) -> Iterator[list[Run]]:
        for case, pairs in items:
            found = [(key, self._candidates[wrong], self._candidates[healthy]) for key, wrong, healthy in pairs]
            yield run_case(case, found, self._worker, self._settings)

    def doses(self, cases: Iterable[Case]) -> Iterator[Doses]:
        return (smallest_doses(case) for case in cases)


def unseen(found: Iterator[_Item], total: int, label: str) -> Iterator[_Item]:  # noqa: ARG001 - nothing is shown
    return found


def played(worker: Worker, *, cases: int = 3, relations: str = "some") -> PowerResults:
    """Returns the score of the small catalogue."""
    catalogue = load_catalogue(SEEDED)
    asked = {"profile": "quick", "cases": cases, "seed": 0, "op": None, "fault": None}
    profile = PowerProfile(name="quick", cases=cases, largest=None, doses={}, minutes=20.0)
    return measure(
        catalogue,
        entries(catalogue.faults),
        Here(worker, relations),
        profile,
        asked,
        started=time.monotonic(),
        shown=unseen,
    )


def score(results: PowerResults, name: str, dtype: str = "float32") -> FaultScore:
    """Returns the row of a fault."""
    return next(item for item in results.faults if (item.name, item.dtype) == (name, dtype))
