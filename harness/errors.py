"""The errors that the testbench raises of itself; standard library only."""

import difflib
from collections.abc import Iterable

__all__ = ["TestbenchError", "UsageError", "nearest"]


class TestbenchError(Exception):
    """The testbench itself failed: a store that cannot be written, a worker that cannot start (exit code 3)."""

    __test__ = False  # pytest would otherwise try to collect a class of this name


class UsageError(TestbenchError):
    """A request that makes no sense, said in one sentence: what was got, what is expected (exit code 2)."""


def nearest(got: str, known: Iterable[str]) -> str:
    """Returns ``"; did you mean 'x'?"`` for the nearest known name, or an empty string."""
    matches = difflib.get_close_matches(got, list(known), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""
