"""A driver for a GPU that is not there, and launches that compile instead of running.

Launchers choose their settings and Triton specialises arguments exactly as on that GPU, because both ask the driver
for the target and nothing else. What a launch would have written stays whatever the memory held before.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NoReturn
from unittest import mock

import torch

from harness.codegen.apart import compiled_apart
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
_SHARED_BYTES = 227 * 1024
_MULTIPROCESSORS = 132
_LONGEST_COMPLAINT = 300


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch that was compiled.

    Attributes:
        function: the Triton function.
        kernel: what Triton compiled it to.
        programs: number of programs.
        tensor_bytes: bytes of the tensors that it is given, each once.
        is_trial: whether autotuning only tries a setting.
    """

    function: Any
    kernel: Any
    programs: int
    tensor_bytes: int
    is_trial: bool


@dataclass(slots=True)
class Launches:
    """What a call launched.

    Attributes:
        compiled: the launches that compile, in order.
        failed: a sentence for each that does not; kept even where the candidate catches the error.
        is_tuning: whether settings are tried just now.
    """

    compiled: list[Launch] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    is_tuning: bool = False


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

    @property
    def utils(self) -> "_NoDevice":
        return self

    def get_device_properties(self, device: int = 0) -> dict[str, int]:
        del device
        return {"max_shared_mem": _SHARED_BYTES, "multiprocessor_count": _MULTIPROCESSORS}

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
def compiling(
    arch: str, *, first_setting: bool = False, memory_bytes: int | None = None
) -> Iterator[Launches]:  # fmt: skip
    """Collects the launches inside, none of which runs.

    Args:
        arch: one architecture per process: Triton keeps what it compiled by device, of which there is one.
        first_setting: whether an autotuned kernel is compiled with the first of its settings alone.
        memory_bytes: every kernel is compiled in a process apart, which may allocate so much; None means in this one.
    """
    from triton.runtime.errors import OutOfResources
    from triton.runtime.jit import JITFunction

    launches = Launches()
    run = JITFunction.run

    def compile_only(self: Any, *arguments: Any, grid: Any, warmup: bool = False, **options: Any) -> Any:  # noqa: ANN401, ARG001 - Triton's own signature
        if memory_bytes is not None:
            ended = compiled_apart(
                lambda: run(self, *arguments, grid=grid, warmup=True, **options), memory_bytes=memory_bytes
            )
            if ended is not None:
                # Told of a setting that is only tried as well: it is not the kernel that is at fault.
                launches.failed.append(f"{self.fn.__name__} is not compiled: {ended}")
                raise OutOfResources(ended, f"{memory_bytes} bytes", "memory of the compiler")
        try:
            kernel = run(self, *arguments, grid=grid, warmup=True, **options)
        except Exception as error:
            if launches.is_tuning:
                raise  # a setting that does not compile is not chosen
            launches.failed.append(f"{self.fn.__name__} does not compile: {_sentence(error)}")
            raise
        given = dict(zip(self.arg_names, arguments, strict=False)) | options
        launches.compiled.append(
            Launch(self, kernel, _programs(grid, given), _tensor_bytes(given.values()), launches.is_tuning)
        )
        return kernel

    with _driver(arch), _tuning(launches, first_setting), mock.patch.object(JITFunction, "run", compile_only):
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


@contextmanager
def _tuning(launches: Launches, first_setting: bool) -> Iterator[None]:  # noqa: FBT001 - one caller
    """Marks the launches by which autotuning tries settings, which it does at every launch anew."""
    from triton.runtime.autotuner import Autotuner

    run, bench, prune = Autotuner.run, Autotuner._bench, Autotuner.prune_configs

    def run_anew(self: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - Triton's own signature
        self.cache.clear()
        return run(self, *arguments, **options)

    def bench_marked(self: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - Triton's own signature
        launches.is_tuning = True
        try:
            return bench(self, *arguments, **options)
        finally:
            launches.is_tuning = False

    def pruned(self: Any, options: Any) -> list[Any]:  # noqa: ANN401 - Triton's own signature
        return list(prune(self, options))[: 1 if first_setting else None]

    with mock.patch.multiple(Autotuner, run=run_anew, _bench=bench_marked, prune_configs=pruned):
        yield


def _programs(grid: Any, given: dict[str, Any]) -> int:  # noqa: ANN401 - a tuple or a function of arguments
    return math.prod(int(size) for size in (grid(given) if callable(grid) else grid))


def _tensor_bytes(arguments: Iterable[object]) -> int:
    """Returns the bytes of distinct tensors; an axis that is expanded, of stride 0, counts once."""
    tensors = [getattr(item, "base", item) for item in arguments]
    sizes: dict[int, int] = {}
    for x in (item for item in tensors if isinstance(item, torch.Tensor)):
        elements = math.prod(size for size, stride in zip(x.shape, x.stride(), strict=True) if stride)
        sizes[x.data_ptr()] = max(sizes.get(x.data_ptr(), 0), elements * x.element_size())
    return sum(sizes.values())


def _sentence(error: Exception) -> str:
    """Returns the end of what a compiler says, which is where the reason stands, without the paths of this machine."""
    words = " ".join(str(error).partition("Repro command")[0].split())
    return f"{type(error).__name__}: {words[-_LONGEST_COMPLAINT:]}"


@contextmanager
def _driver(arch: str) -> Iterator[None]:
    import triton

    before = triton.runtime.driver._active
    triton.runtime.driver.set_active(_NoDevice(arch))
    number = int(arch.removeprefix("sm_"))
    properties = SimpleNamespace(multi_processor_count=_MULTIPROCESSORS, shared_memory_per_block_optin=_SHARED_BYTES)
    answers = {
        "get_device_capability": divmod(number, 10), "get_device_name": f"no device, {arch}", "device_count": 1,
        "current_device": 0, "get_device_properties": properties,
    }  # fmt: skip
    try:
        with ExitStack() as stack:
            for question, answer in answers.items():  # other projects ask torch
                stack.enter_context(mock.patch.object(torch.cuda, question, return_value=answer))
            yield
    finally:
        triton.runtime.driver._active = before
