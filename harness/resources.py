"""What a run costs, its time and the memory of all its processes together, and what memory there is to share."""

import os
import time
from pathlib import Path

__all__ = ["PeakMemory", "share_of_memory", "tree_memory_bytes"]


class PeakMemory:
    """The largest memory seen of this process and everything that it started, and the time since it was made."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._largest = 0

    def look(self) -> None:
        """Measures once; call it often."""
        self._largest = max(self._largest, tree_memory_bytes())

    def spent(self) -> dict[str, float]:
        """Returns ``elapsed_s`` and ``peak_memory_gb`` (0 where the system does not tell)."""
        return {
            "elapsed_s": round(time.monotonic() - self._started, 1),
            "peak_memory_gb": round(self._largest / 1e9, 2),
        }


def tree_memory_bytes() -> int:
    """Returns the memory of this process and its descendants, shared pages counted once; 0 without ``/proc``."""
    return sum(_proportional_bytes(pid) for pid in _descendants(os.getpid()))


def _descendants(root: int) -> list[int]:
    found, queue = [], [root]
    while queue:
        pid = queue.pop()
        found.append(pid)
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                queue += [int(child) for child in path.read_text(encoding="ascii").split()]
            except OSError:
                continue  # it ended meanwhile
    return found


def _proportional_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), 0)


def share_of_memory(jobs: int) -> int | None:
    """Returns the memory that one of so many workers may take, in bytes; None where the system does not tell.

    One share more than there are workers is left to everything else: lanes, references, the system.
    """
    total = [value for value in (_installed_bytes(), _granted_bytes()) if value]
    return min(total) // (jobs + 1) if total else None


def _installed_bytes() -> int | None:
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("MemTotal:")), None)


def _granted_bytes() -> int | None:
    """Returns what the control group of a container may take; None where there is no limit."""
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
