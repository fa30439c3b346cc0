"""A driver for a GPU that is not there, and launches that compile instead of running.

Launchers choose their settings and Triton specialises arguments exactly as on that GPU, because both ask the driver
for the target and nothing else. What a launch would have written stays whatever the memory held before.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn
from unittest import mock

import torch

from harness.errors import UsageError

__all__ = [
    "ARCHITECTURES",
    "GATED_ARCH",
    "Launch",
    "Launches",
    "assembler_version",
    "check_arch",
    "compiling",
    "launches_something",
]

GATED_ARCH = "sm_90"
"""Architecture that the limits are for."""

ARCHITECTURES: tuple[str, ...] = (GATED_ARCH, "sm_100")
"""Architectures that are examined unless others are asked for."""

_WARP_SIZE = 32
_LONGEST_COMPLAINT = 300


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch that was compiled.

    Attributes:
        function: the Triton function.
        kernel: what Triton compiled it to.
    """

    function: Any
    kernel: Any


@dataclass(slots=True)
class Launches:
    """What a call launched.

    Attributes:
        compiled: the launches that compile, in order.
        failed: a sentence for each that does not; kept even where the candidate catches the error.
    """

    compiled: list[Launch] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


class _Launched(BaseException):
    """Leaves a call at its first launch; no candidate may catch it."""


class _NoDevice:
    """What Triton asks of a driver in order to compile."""

    def __init__(self, arch: str) -> None:
        from triton.backends.compiler import GPUTarget

        self._target = GPUTarget("cuda", int(arch.removeprefix("sm_")), _WARP_SIZE)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_current_target(self) -> object:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return device

    def get_benchmarker(self) -> Callable[..., list[float]]:
        """Returns a benchmark that launches once: an autotuned kernel is compiled with every setting."""

        def benchmark(launch: Callable[[], object], *, quantiles: tuple[float, ...] = (0.5,)) -> list[float]:
            launch()
            return [0.0] * len(quantiles)

        return benchmark


def check_arch(arch: str) -> str:
    """Returns the name of an architecture.

    Raises:
        UsageError: it is no ``sm_NN`` from Ampere on.
    """
    found = re.fullmatch(r"sm_(\d{2,3})", arch)
    if found is None or int(found[1]) < 80:
        raise UsageError(f"--arch: got {arch!r}, expected sm_80 or later, for instance {' or '.join(ARCHITECTURES)}")
    return arch


@contextmanager
def compiling(arch: str) -> Iterator[Launches]:
    """Collects the launches inside, none of which runs.

    Args:
        arch: one architecture per process: Triton keeps what it compiled by device, of which there is one.
    """
    from triton.runtime.jit import JITFunction

    launches = Launches()
    run = JITFunction.run

    def compile_only(self: Any, *arguments: Any, grid: Any, warmup: bool = False, **options: Any) -> Any:  # noqa: ANN401, ARG001 - Triton's own signature
        try:
            kernel = run(self, *arguments, grid=grid, warmup=True, **options)
        except Exception as error:
            launches.failed.append(f"{self.fn.__name__} does not compile: {_sentence(error)}")
            raise
        launches.compiled.append(Launch(self, kernel))
        return kernel

    with _driver(arch), mock.patch.object(JITFunction, "run", compile_only):
        yield launches


def assembler_version(arch: str) -> str | None:
    """Returns the version of the assembler that Triton takes for an architecture; None if it does not say."""
    try:
        from triton.backends.nvidia.compiler import get_ptxas
    except ImportError:
        return None
    version: str = get_ptxas(int(arch.removeprefix("sm_"))).version
    return version


def launches_something(call: Callable[[], object], arch: str) -> bool:
    """Returns whether a call comes to a launch, which is where it is left."""
    from triton.runtime.jit import JITFunction

    def leave(self: object, *_: object, **__: object) -> NoReturn:
        raise _Launched(self)

    with _driver(arch), mock.patch.object(JITFunction, "run", leave):
        try:
            call()
        except _Launched:
            return True
    return False


def _sentence(error: Exception) -> str:
    """Returns the end of what a compiler says, which is where the reason stands, without the paths of this machine."""
    words = " ".join(str(error).partition("Repro command")[0].split())
    return f"{type(error).__name__}: {words[-_LONGEST_COMPLAINT:]}"


@contextmanager
def _driver(arch: str) -> Iterator[None]:
    import triton

    before = triton.runtime.driver._active
    triton.runtime.driver.set_active(_NoDevice(arch))
    try:
        yield
    finally:
        triton.runtime.driver._active = before
