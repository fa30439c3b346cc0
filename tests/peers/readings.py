"""Our reading of what the campaign found, by candidate and output: what it is, and why; the records say the rest.

A reading is looked up by the candidate's name and the judged tensor, the first pattern that fits counts. The page shows
a failure without a reading as such, and no reading without a failure.
"""

import fnmatch
from dataclasses import dataclass

__all__ = ["KINDS", "READINGS", "Reading", "reading_of"]

KINDS = ("bug", "another convention", "looser recipe", "declined by its authors")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What we make of a failure.

    Attributes:
        candidate: pattern of candidates.
        output: pattern of judged tensors; ``call`` stands for a call that raised.
        kind: one of ``KINDS``.
        why: sentences.
        care: how much a user of that peer should care, 1 most.
    """

    candidate: str
    output: str
    kind: str
    why: str
    care: int


READINGS: tuple[Reading, ...] = ()


def reading_of(candidate: str, output: str) -> Reading | None:
    """Returns the reading of a failure, or None."""
    for reading in READINGS:
        if fnmatch.fnmatch(candidate, reading.candidate) and fnmatch.fnmatch(output, reading.output):
            return reading
    return None
