"""How much of a catalogue is played: all of it, or the part for every day."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.power.catalogue import Entry

__all__ = ["FULL", "QUICK", "PowerProfile", "subset"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerProfile:
    """How much is played.

    Attributes:
        name: ``full`` or ``quick``.
        cases: most cases of a fault.
        largest: cap on the number of tokens, or None for each fault's own.
        doses: cases per operation and dtype into which errors are planted for the resolution.
    """

    name: str
    cases: int
    largest: int | None
    doses: int


FULL = PowerProfile(name="full", cases=200, largest=None, doses=60)
QUICK = PowerProfile(name="quick", cases=6, largest=24, doses=0)


def subset(entries: Sequence[Entry]) -> list[Entry]:
    """Returns every fault in one dtype, its dtypes in turn within an operation: all operations, all detectors."""
    chosen: list[Entry] = []
    turns: dict[str, int] = {}
    by_fault: dict[int, list[Entry]] = {}
    for entry in entries:
        by_fault.setdefault(id(entry.fault), []).append(entry)
    for same in by_fault.values():
        turn = turns[same[0].fault.op] = turns.get(same[0].fault.op, -1) + 1
        chosen.append(same[turn % len(same)])
    return chosen
