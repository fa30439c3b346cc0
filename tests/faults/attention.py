"""Seeded faults of softmax attention; also a plug-in of its own."""

from collections.abc import Mapping

from harness.power.fault import Fault
from optimized.candidate import Candidate
from tests.faults import (
    attention_backward,
    attention_calls,
    attention_forward,
    attention_packing,
    attention_sinks,
)

__all__ = ["CANDIDATES", "FAULTS", "NOT_SEEDED"]

_MODULES = (attention_forward, attention_backward, attention_sinks, attention_packing, attention_calls)

FAULTS: tuple[Fault, ...] = tuple(sorted((each for module in _MODULES for each in module.FAULTS), key=lambda it: it.id))
"""In the order of their ids."""

NOT_SEEDED: Mapping[str, str] = {}
"""Every real bug of softmax attention is seeded."""

CANDIDATES: tuple[Candidate, ...] = tuple(
    candidate for fault in FAULTS for pair in fault.pairs.values() for candidate in pair
)
"""The wrong ones and their healthy twins."""
