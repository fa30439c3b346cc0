"""Keeps a process on cores of its own choice while it is timed: a move to another core costs it its caches."""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

import torch

__all__ = ["pinned", "quietest"]

_LOOK_S = 0.05


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Gives torch so many threads, and this process the quietest cores for them, while the block runs.

    Args:
        threads: of torch, and cores.
    """
    had = torch.get_num_threads()
    torch.set_num_threads(threads)
    if not hasattr(os, "sched_setaffinity"):
        yield
        torch.set_num_threads(had)
        return
    allowed = os.sched_getaffinity(0)
    _move(quietest(allowed, threads))
    try:
        yield
    finally:
        _move(allowed)
        torch.set_num_threads(had)


def quietest(allowed: AbstractSet[int], count: int) -> set[int]:
    """Returns those cores, of the allowed ones, that did least in a moment that it waits."""
    before = _busy()
    time.sleep(_LOOK_S)
    after = _busy()
    work = {core: after.get(core, 0) - before.get(core, 0) for core in sorted(allowed)}
    return set(sorted(work, key=work.__getitem__)[:count])


def _busy() -> Mapping[int, int]:
    """Returns, by core, the ticks that it was busy since the machine started."""
    try:
        lines = Path("/proc/stat").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        name, *ticks = line.split()
        if name.startswith("cpu") and name != "cpu":
            idle = int(ticks[3]) + int(ticks[4])
            found[int(name[3:])] = sum(map(int, ticks[:8])) - idle
    return found


def _move(cores: AbstractSet[int]) -> None:
    """Moves all threads of this process: a call for the process alone would move the one that calls."""
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # a thread may end meanwhile
            os.sched_setaffinity(int(task.name), cores)
