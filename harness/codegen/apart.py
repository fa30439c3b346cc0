"""Compiles in a process apart: what a compiler takes is measured and limited, and given back when it ends.

A compiler keeps memory, and an autotuned kernel is compiled with dozens of settings: in one process they reached 22 GB.
What the process apart compiled is in Triton's cache on disk, from where the one that asked for it reads it.
"""

import contextlib
import os
import resource
import signal
from collections.abc import Callable

__all__ = ["compiled_apart"]

_FAILED, _NO_MEMORY = 1, 2


def compiled_apart(compilation: Callable[[], object], *, memory_bytes: int) -> str | None:
    """Runs a compilation in a fork of this process, and returns a sentence where the compiler was ended.

    What the compiler says of a kernel is not told: a caller that compiles the kernel again, from the cache or not, is
    told it by the compiler.

    Args:
        compilation: leaves what it makes in a cache on disk.
        memory_bytes: that the fork and what it starts may each allocate.
    """
    child = os.fork()
    if child == 0:
        os._exit(_outcome(compilation, memory_bytes))
    _, status, usage = os.wait4(child, 0)
    largest = f"after {usage.ru_maxrss * 1024 / 1e9:.1f} GB of memory (limit {memory_bytes / 1e9:.1f} GB)"
    if os.WIFSIGNALED(status):
        return f"the compiler ended with {signal.Signals(os.WTERMSIG(status)).name} {largest}"
    if os.WEXITSTATUS(status) == _NO_MEMORY:
        return f"the compiler ran out of memory {largest}"
    return None


def _outcome(compilation: Callable[[], object], memory_bytes: int) -> int:
    """Returns the exit code of the fork, which must not go on as the process that it is a copy of."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError):  # a lower limit is there already
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    try:
        compilation()
    except MemoryError:
        return _NO_MEMORY
    except BaseException as error:
        # An assembler that is a process of its own says it in words.
        return _NO_MEMORY if "memory allocation fail" in str(error).lower() else _FAILED
    return 0
