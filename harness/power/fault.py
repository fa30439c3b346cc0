"""What a seeded fault is: a wrong candidate beside the healthy one that it was made from, and where it can show."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optimized.candidate import Candidate

__all__ = ["DETECTORS", "PHASES", "Fault"]

DETECTORS: Mapping[str, str] = {
    "VAL": "a value beside the reference",
    "GRAD": "a gradient beside the reference",
    "META": "an exact relation between two calls",
    "DET": "the same call twice",
    "NAN": "what is not finite",
    "MEM": "poisoned memory, canaries, checksums of the inputs",
    "API": "what the call must refuse",
}
"""Kinds of check that can find a fault."""

PHASES: tuple[str, ...] = ("forward", "gradient")
"""Whether an output is wrong, or gradients alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way to be wrong that really happened, seeded into a right implementation.

    A fault is scored on a case only where it is not equivalent there: where it returns other bits than its healthy
    twin, or does something else to the memory or the process.

    Attributes:
        id: of the catalogue of real bugs, ``"B032"``; a letter more where one bug is seeded in several ways.
        name: what is wrong, lower case with dashes; unique within an operation.
        op: the operation.
        what: one sentence for the table.
        source: where it really happened, project and number.
        detectors: kinds of check that can find it, keys of ``DETECTORS``, the most telling first.
        phase: ``forward`` or ``gradient``.
        pairs: by storage dtype, the wrong candidate and its healthy twin, which has the same recipe.
        reach: fields that a drawn case gets so that the fault can show there.
        regimes: value regimes in which it can show; all of the operation's if empty.
        largest: largest number of tokens of its cases, for faults that need length.
    """

    id: str
    name: str
    op: str
    what: str
    source: str
    detectors: tuple[str, ...]
    phase: str
    pairs: Mapping[str, tuple[Candidate, Candidate]]
    reach: Mapping[str, Any] = field(default_factory=dict)
    regimes: tuple[str, ...] = ()
    largest: int = 40

    def __post_init__(self) -> None:
        """Refuses a fault that could not be scored.

        Raises:
            ValueError: a detector or phase is unknown, there are no pairs, or twins differ in operation or recipe.
        """
        for name in self.detectors:
            if name not in DETECTORS:
                raise ValueError(f"Fault.detectors: got {name!r}, expected some of {', '.join(DETECTORS)}")
        if self.phase not in PHASES:
            raise ValueError(f"Fault.phase: got {self.phase!r}, expected one of {', '.join(PHASES)}")
        if not self.pairs or not self.detectors:
            raise ValueError(f"Fault {self.id}: got no pairs or no detectors, expected at least one of each")
        for wrong, healthy in self.pairs.values():
            if wrong.op != self.op or healthy.op != self.op or wrong.recipe != healthy.recipe:
                raise ValueError(f"Fault {self.id}: got twins of unlike operation or recipe, expected the same of both")
