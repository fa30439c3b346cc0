"""Functions that end the process that they run in; imports nothing heavy, because every new lane imports it."""

import os
import signal
from pathlib import Path

__all__ = ["always", "once"]


def once(flag: str) -> str:
    """Ends its lane the first time; any lane after that returns."""
    path = Path(flag)
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return flag


def always(_: str) -> str:
    """Ends every lane."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError
