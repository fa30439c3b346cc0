"""What the gate says of something that got worse."""

from dataclasses import dataclass

__all__ = ["Trip"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """Something that got worse.

    Attributes:
        sentence: what, and from what to what.
        command: shows it.
    """

    sentence: str
    command: str
