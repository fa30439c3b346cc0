"""Compiles FlashAttention 4 as the adapter calls it, forward and backward, on any machine; one JSON line a kernel.

A program of its own, because the architecture is read once per process: ``python -m tests.optimized.compile_flash4``
for the whole grid on sm_90, with ``--arch sm_100`` for another, with ``--cases daily`` for two of each width, which CI
compiles, with ``--cases small`` for the few that a test reads.
Tensors are fake ones on a GPU that is not there, so that nothing runs. Letters: D query/key head width, V value width.
"""

import argparse
import contextlib
import importlib
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from harness.codegen.machine_code import MachineCode, read_machine_code
from optimized.flash4 import kernels
from optimized.flash4.widths import kernel_widths, refuse_widths
from tests.optimized.flash4_figures import print_table, report_violations

__all__ = ["CASES", "Case", "main"]

_COMPILER_ARCHITECTURES = {"sm_90": "sm_90a", "sm_100": "sm_100a"}
_MULTIPROCESSORS = {"sm_90": "132", "sm_100": "148"}

_CONFIGURATION = r"!llvm\.struct<\(array<3 x i32>, array<3 x i32>, i64, ptr, ptr, i32\)>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One call of the kernels, of widths that they have; 1024 tokens, four query heads."""

    D: int
    V: int
    window: tuple[int | None, int | None] = (None, None)
    with_sinks: bool = False
    group: int = 1
    is_packed: bool = False
    is_deterministic: bool = False
    dtype: str = "bfloat16"


_WIDTHS = ((64, 64), (96, 96), (128, 128), (192, 128), (192, 192), (256, 256))
_WINDOWS = ((None, None), (None, 0), (256, 0))

_GRID = tuple(
    Case(D=D, V=V, window=window, with_sinks=with_sinks, group=group)
    for (D, V), window, with_sinks, group in itertools.product(_WIDTHS, _WINDOWS, (False, True), (1, 4))
)
_OTHERS = (
    *(Case(D=D, V=V, window=(None, 0), group=4, is_packed=True) for D, V in _WIDTHS),
    *(Case(D=D, V=V, with_sinks=True, is_packed=True) for D, V in _WIDTHS),
    *(Case(D=D, V=V, window=(None, 0), dtype="float16") for D, V in _WIDTHS),
    *(Case(D=128, V=128, window=(5, right), with_sinks=True, group=3) for right in (None, 3)),
    *(
        Case(D=128, V=128, window=(None, 0), group=4, is_packed=packed, is_deterministic=True)
        for packed in (False, True)
    ),
)

CASES: dict[str, tuple[Case, ...]] = {
    "small": (
        Case(D=64, V=64),
        Case(D=128, V=128, window=(None, 0), with_sinks=True, group=4),
        Case(D=192, V=128, window=(None, 0), is_packed=True),
    ),
    "daily": tuple(
        Case(D=D, V=V, window=window, with_sinks=window == (256, 0), group=4)
        for (D, V), window in itertools.product(_WIDTHS, ((None, 0), (256, 0)))
    ),
    "beside": (Case(D=128, V=128, window=(None, 0)),),
    "all": (*_GRID, *_OTHERS),
}
"""Lists of cases by name."""


def main(arguments: Sequence[str]) -> int:
    """Prints the figures of every kernel of the chosen cases, then a table and what breaks a limit of Hopper's.

    Returns:
        1 if a kernel for sm_90 spills or asks for more shared memory than there is, else 0.
    """
    parser = argparse.ArgumentParser(prog="tests.optimized.compile_flash4", description=__doc__)
    parser.add_argument("--arch", choices=_COMPILER_ARCHITECTURES, default="sm_90")
    parser.add_argument("--cases", choices=CASES, default="all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="compiling processes (default: one per core)")
    parser.add_argument("--widths", metavar="D/V", help="only these head widths, compiled in this very process")
    options = parser.parse_args(arguments)
    cases = [case for case in CASES[options.cases] if _is_called(case, options.arch)]
    if options.widths:
        _compile_all([case for case in cases if f"{case.D}/{case.V}" == options.widths], options.arch)
        return 0
    started = time.perf_counter()
    widths = dict.fromkeys(f"{case.D}/{case.V}" for case in cases)
    command = [sys.executable, "-m", "tests.optimized.compile_flash4", "--arch", options.arch, "--cases", options.cases]

    def compile_widths(each: str) -> list[dict[str, Any]]:
        run = subprocess.run([*command, "--widths", each], capture_output=True, text=True, check=False)
        if run.returncode:
            raise RuntimeError(f"head widths {each} do not compile: {run.stderr}")
        return [json.loads(line) for line in run.stdout.splitlines()]

    with ThreadPoolExecutor(options.jobs) as pool:
        records = [record for found in pool.map(compile_widths, widths) for record in found]
    for record in records:
        sys.stdout.write(json.dumps(record) + "\n")
    print_table(records)
    sys.stderr.write(f"{len(cases)} cases, {len(records)} kernels: {time.perf_counter() - started:.0f} s\n")
    return int(report_violations(records))


def _compile_all(cases: Sequence[Case], arch: str) -> None:
    """Prints one line for every kernel of the cases, at the first case that has it."""
    version = metadata.version("flash-attn-4")
    with tempfile.TemporaryDirectory() as folder, _no_gpu(arch, folder), _backwards() as backwards:
        for case in cases:
            for record in _compile(case, backwards):
                sys.stdout.write(json.dumps({"arch": arch, "version": version, **asdict(case), **record}) + "\n")
                sys.stdout.flush()


def _is_called(case: Case, arch: str) -> bool:
    """Returns whether the adapter calls kernels of these widths, and their backward pass, on ``arch``."""
    widths = kernel_widths(case.D, case.V, arch=arch, is_grouped=case.group > 1)
    return widths == (case.D, case.V) and refuse_widths(*widths, arch=arch, needs_gradients=True) is None


@contextlib.contextmanager
def _no_gpu(arch: str, folder: str) -> Iterator[None]:
    """Makes FlashAttention 4 choose kernels for ``arch`` and CuTe compile for it, and keep the machine code."""
    environment = {
        "FLASH_ATTENTION_ARCH": arch,
        "FLASH_ATTENTION_NUM_SMS": _MULTIPROCESSORS[arch],
        "CUTE_DSL_ARCH": _COMPILER_ARCHITECTURES[arch],
        "CUTE_DSL_KEEP_CUBIN": "1",
        "CUTE_DSL_DUMP_DIR": folder,
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, environment))
        # torch without CUDA cannot even look at the device of a fake tensor.
        stack.enter_context(mock.patch.object(torch.cuda, "device_of", contextlib.nullcontext))
        stack.enter_context(mock.patch.object(torch.cuda, "current_device", return_value=0))
        # Persistent kernels take the size of their grid from the driver, which is not there.
        hardware = importlib.import_module("cutlass.utils.hardware_info").HardwareInfo
        count = int(_MULTIPROCESSORS[arch])
        stack.enter_context(mock.patch.object(hardware, "__init__", return_value=None))
        for question in ("get_device_multiprocessor_count", "get_max_active_clusters"):
            stack.enter_context(mock.patch.object(hardware, question, return_value=count))
        yield


@contextlib.contextmanager
def _backwards() -> Iterator[list[Callable[[], object]]]:
    """Collects the backward pass of every call inside; a build of torch without CUDA has no autograd for CUDA."""
    from flash_attn.cute import interface

    collected: list[Callable[[], object]] = []

    def applying(function: Any) -> Callable[..., Any]:
        def apply(*inputs: Any) -> Any:
            context = _Context()
            out, lse = function.forward(context, *inputs)
            collected.append(lambda: function.backward(context, torch.empty_like(out), torch.empty_like(lse)))
            return out, lse

        return apply

    with contextlib.ExitStack() as stack:
        for function in (interface.FlashAttnFunc, interface.FlashAttnVarlenFunc):
            stack.enter_context(mock.patch.object(function, "apply", applying(function)))
        yield collected


class _Context:
    """What an autograd function keeps from its forward to its backward pass."""

    saved_tensors: tuple[Any, ...] = ()

    def save_for_backward(self, *tensors: Any) -> None:
        self.saved_tensors = tensors

    def set_materialize_grads(self, value: bool) -> None:  # noqa: FBT001  # torch's own signature
        del value


def _compile(case: Case, backwards: list[Callable[[], object]]) -> Iterator[dict[str, Any]]:
    """Yields what is to be said of every kernel that this case is the first to compile."""
    cute = importlib.import_module("cutlass.cute")
    compiled: list[tuple[str, float, Any]] = []
    original = cute.compile

    class Compiler:
        def __call__(self, kernel: Any, *arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            result = original(kernel, *arguments, **options)
            compiled.append((type(kernel).__name__, time.perf_counter() - started, result))
            return result

        def __getattr__(self, name: str) -> Any:
            return getattr(original, name)

    backwards.clear()
    deterministic = mock.patch.object(torch, "are_deterministic_algorithms_enabled", return_value=case.is_deterministic)
    with FakeTensorMode(), torch.no_grad(), deterministic, mock.patch.object(cute, "compile", Compiler()):
        _call(case)
        for backward in backwards:
            backward()
    for name, seconds, result in compiled:
        launch = _launch(str(result.ir_module))
        for code in read_machine_code(result.artifacts.CUBIN):
            yield {"what": name, **launch, **_figures(code), "seconds": round(seconds, 2)}


def _call(case: Case) -> None:
    """Calls the kernels as the adapter does, with fake tensors of widths that they have."""
    B, T, H = 2, 1024, 4
    made: dict[str, Any] = {"dtype": getattr(torch, case.dtype), "device": "cuda"}
    sinks = torch.empty(H, dtype=torch.float32, device="cuda") if case.with_sinks else None
    tokens = (B * T,) if case.is_packed else (B, T)
    shapes = ((H, case.D), (H // case.group, case.D), (H // case.group, case.V))
    query, key, value = (torch.empty(*tokens, *shape, **made) for shape in shapes)
    options: dict[str, Any] = {"scale": 0.1, "window": case.window, "sinks": sinks}
    if case.is_packed:
        offsets = torch.empty(B + 1, dtype=torch.int32, device="cuda")
        kernels.call_packed(
            query,
            key,
            value,
            cu_seqlens_q=offsets,
            cu_seqlens_k=offsets,
            max_seqlen_q=T,
            max_seqlen_k=T,
            **options,
        )
    else:
        kernels.call_dense(query, key, value, **options)


def _launch(program: str) -> dict[str, int]:
    """Returns the threads and the shared memory that the host program of a kernel launches it with."""
    (host,) = (text for text in program.split("llvm.func ") if re.search(rf"llvm.alloca .* {_CONFIGURATION}", text))
    constants = dict(re.findall(r"(%\d+) = llvm\.mlir\.constant\((\d+) : i(?:32|64)\)", host))

    def field(place: str) -> int:
        address = re.search(rf"(%\d+) = llvm\.getelementptr %\d+\[{place}\] .*{_CONFIGURATION}", host)
        stored = address and re.search(rf"llvm\.store (%\d+), {address[1]} :", host)
        if not stored or stored[1] not in constants:
            raise RuntimeError(f"launch configuration: got no constant at [{place}], expected one")
        return int(constants[stored[1]])

    return {"threads": field("0, 1, 0"), "dynamic_shared_bytes": field("0, 2")}


def _figures(code: MachineCode) -> dict[str, int | str]:
    figures: dict[str, int | str] = asdict(code)
    return figures | {"function": re.sub(r"_object_at_.*", "", code.function)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
