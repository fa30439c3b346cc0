"""Parts of a campaign for several machines: shard ``i/n`` takes every n-th piece of work, beginning with the i-th.

The pieces follow from the command alone, so the shards of one command share nothing and together are the whole run.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self, TypeVar

from harness.errors import UsageError

__all__ = ["WHOLE", "Shard", "missing_shards"]

_Piece = TypeVar("_Piece")


@dataclass(frozen=True, slots=True)
class Shard:
    """One of ``of`` parts, counted from 1."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Returns the shard that ``"2/8"`` names.

        Raises:
            UsageError: it names none.
        """
        first, _, second = text.partition("/")
        if not (first.isascii() and second.isascii() and first.isdigit() and second.isdigit()) or not (
            1 <= int(first) <= int(second)
        ):
            raise UsageError(f"--shard: got {text!r}, expected i/n with 1 <= i <= n, for instance 2/8")
        return cls(int(first), int(second))

    def part(self, pieces: Iterable[_Piece]) -> Iterator[_Piece]:
        """Yields this shard's pieces in their order."""
        return (piece for index, piece in enumerate(pieces) if index % self.of == self.number - 1)

    def __str__(self) -> str:
        """Returns ``"2/8"``."""
        return f"{self.number}/{self.of}"


WHOLE = Shard(1, 1)
"""All of it."""


def missing_shards(present: Iterable[Shard]) -> list[Shard]:
    """Returns which shards are not there, of a run that was split into as many as the largest says.

    Raises:
        UsageError: the shards are of different splits.
    """
    have = set(present)
    counts = sorted({shard.of for shard in have})
    if len(counts) > 1:
        splits = " and ".join(str(count) for count in counts)
        raise UsageError(f"merge: got shards of runs in {splits} parts, expected those of one run")
    return [shard for shard in (Shard(number, of) for of in counts for number in range(1, of + 1)) if shard not in have]
