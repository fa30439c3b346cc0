"""How much of a catalogue is played: all of it, or the part for every day."""

import zlib
from collections.abc import Mapping, Sequence
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
        doses: by operation, cases per dtype into which errors are planted for the resolution. The delta rule is noisier
            than its neighbours, and what its cases show together needs more of them.
        minutes: after which what the first cases did not catch gets no more.
    """

    name: str
    cases: int
    largest: int | None
    doses: Mapping[str, int]
    minutes: float


FULL = PowerProfile(
    name="full", cases=200, largest=None, doses={"attention": 40, "gated_delta_rule": 120, "rms_norm": 40}, minutes=20.0
)
QUICK = PowerProfile(name="quick", cases=6, largest=24, doses={}, minutes=20.0)


def subset(entries: Sequence[Entry]) -> list[Entry]:
    """Returns every fault in one of its dtypes: all operations and all detectors are still there.

    Which dtype follows from the fault alone, so that a fault that joins or leaves the catalogue changes no other.
    """
    by_fault: dict[str, list[Entry]] = {}
    for entry in entries:
        by_fault.setdefault(f"{entry.fault.id}/{entry.fault.op}/{entry.fault.name}", []).append(entry)
    return [same[zlib.crc32(name.encode()) % len(same)] for name, same in by_fault.items()]
