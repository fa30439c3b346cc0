"""A compiler that takes too much memory, or dies, ends its own process and is told of by name."""

import os
import signal
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from triton.runtime.errors import OutOfResources
from triton.runtime.jit import JITFunction

from harness.codegen.apart import compiled_apart
from harness.codegen.offline import compiling

LIMIT = 2 * 10**9


def greedy() -> None:
    """Allocates more than is allowed, as a compiler in Python does."""
    bytearray(2 * LIMIT)


def complaining() -> None:
    """Says what an assembler says that is a process of its own."""
    raise RuntimeError("ptxas fatal : Memory allocation failure")


def killed() -> None:
    """Ends as a compiler does that the system chose to end."""
    os.kill(os.getpid(), signal.SIGKILL)


def wrong() -> None:
    """Finds a fault of the kernel."""
    raise ValueError("no such type")


@pytest.mark.parametrize(
    ("compilation", "words"),
    [
        (greedy, "the compiler ran out of memory after"),
        (complaining, "the compiler ran out of memory after"),
        (killed, "the compiler ended with SIGKILL after"),
    ],
)
def test_a_compiler_that_was_ended_is_told_with_its_memory(compilation: Callable[[], None], words: str) -> None:
    sentence = compiled_apart(compilation, memory_bytes=LIMIT)
    assert sentence is not None
    assert sentence.startswith(words)
    assert sentence.endswith("GB of memory (limit 2.0 GB)")


@pytest.mark.parametrize("compilation", [wrong, lambda: None], ids=["a fault of the kernel", "no fault"])
def test_what_a_compiler_says_is_left_to_it(compilation: Callable[[], None]) -> None:
    assert compiled_apart(compilation, memory_bytes=LIMIT) is None


def test_a_kernel_over_the_limit_is_told_and_the_next_one_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiler(function: SimpleNamespace, **_: object) -> str:
        function.needs()
        return f"code of {function.fn.__name__}"

    large, small = (
        SimpleNamespace(fn=SimpleNamespace(__name__=name), needs=needs, arg_names=())
        for name, needs in (("large_kernel", greedy), ("small_kernel", lambda: None))
    )
    monkeypatch.setattr(JITFunction, "run", compiler)
    with compiling("sm_90", memory_bytes=LIMIT) as launches:
        with pytest.raises(OutOfResources, match="memory of the compiler"):
            JITFunction.run(large, grid=(1,), warmup=False)
        JITFunction.run(small, grid=(1,), warmup=False)
    assert [each.kernel for each in launches.compiled] == ["code of small_kernel"]
    (sentence,) = launches.failed
    assert sentence.startswith("large_kernel is not compiled: the compiler ran out of memory after")
