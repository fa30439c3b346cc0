"""Plug-in of the whole catalogue: ``FAULTS`` says what is wrong where, ``CANDIDATES`` are the faulty and their twins.

``attest power`` scores it. ``NOT_SEEDED`` names the real bugs that are not in it, each with its reason.
"""

from collections.abc import Mapping

from harness.power.fault import Fault
from optimized.candidate import Candidate
from tests.faults import attention, sequence

__all__ = ["CANDIDATES", "FAULTS", "NOT_SEEDED", "SURVIVORS"]

FAULTS: tuple[Fault, ...] = (*attention.FAULTS, *sequence.FAULTS)
"""Every seeded fault."""

NOT_SEEDED: Mapping[str, str] = {**attention.NOT_SEEDED, **sequence.NOT_SEEDED}
"""Ids of real bugs that are not seeded, and why."""

SURVIVORS: Mapping[str, str] = sequence.SURVIVORS
"""Ids of seeded faults that are known not to be caught, and why."""

CANDIDATES: tuple[Candidate, ...] = tuple(
    candidate for fault in FAULTS for pair in fault.pairs.values() for candidate in pair
)
"""The wrong ones and their healthy twins."""
