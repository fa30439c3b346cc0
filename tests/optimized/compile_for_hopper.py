"""Compiles the kernels for sm_90 on any machine and prints what the machine code needs, one JSON object a kernel.

A program of its own, because its Triton must not interpret: ``python -m tests.optimized.compile_for_hopper WIDTH``. A
driver without a device turns every launch into a compilation, so that the launchers choose settings and specialise
their arguments as on a GPU. Letters: B batch, T tokens, H query heads, G key/value heads.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from optimized import rms_norm
from optimized.kernels.attention import backward, forward

__all__ = ["main"]


class _NoDevice:
    """What Triton asks of a driver in order to compile."""

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_current_target(self) -> object:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return device


@contextmanager
def _compiling() -> Iterator[list[tuple[str, Any]]]:
    """Collects ``(name, compiled kernel)`` of the launches inside, none of which runs."""
    compiled: list[tuple[str, Any]] = []
    launch = JITFunction.run

    def compile_only(self: Any, *arguments: Any, grid: Any, **options: Any) -> Any:
        kernel = launch(self, *arguments, grid=grid, **options | {"warmup": True})
        compiled.append((self.fn.__name__, kernel))
        return kernel

    triton.runtime.driver.set_active(_NoDevice())
    with mock.patch.object(JITFunction, "run", compile_only):
        yield compiled


def _machine_code(kernel: Any) -> dict[str, int]:
    """Returns registers, stack bytes, spills and wgmma instructions of the SASS, and the shared memory."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(kernel.asm["cubin"])
        usage, sass = (
            subprocess.run([tool, option, cubin], capture_output=True, text=True, check=True).stdout
            for option in ("-res-usage", "-sass")
        )
    resources = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if resources is None:
        raise RuntimeError(f"cuobjdump -res-usage: got {usage!r}, expected REG and STACK")
    return {
        "registers": int(resources[1]),
        "stack_bytes": int(resources[2]),
        "spills": len(re.findall(r"\b(?:LDL|STL)\b", sass)),
        "wgmma": len(re.findall(r"\bHGMMA\b", sass)),
        "shared_bytes": int(kernel.metadata.shared),
    }


def _launch(*, width: int) -> None:
    """Launches every kernel once in bfloat16: a sliding window with sinks, which has the most code, and two heads."""
    B, T, H, G = 1, 1024, 4, 2
    query = torch.zeros(B, T, H, width, dtype=torch.bfloat16)
    key, value = torch.zeros(2, B, T, G, width, dtype=torch.bfloat16)
    options: dict[str, Any] = {"scale": 0.1, "window": (256, 0)}
    sinks = torch.zeros(H)
    out, lse = forward.attention_forward(query, key, value, sinks, None, **options)
    saved = backward.SavedAttention(
        query=query, key=key, value=value, sinks=sinks, key_mask=None, out=out, lse=lse, **options
    )
    backward.row_terms(saved, out, lse)
    backward.key_value_gradients(saved, out, lse, lse)
    backward.query_gradient(saved, out, lse, lse)
    rms_norm.launch_forward(query, query[0, 0, 0], eps=1e-6, zero_centered=False)
    rms_norm.launch_backward(query, query[0, 0, 0], out, eps=1e-6, zero_centered=False, of_weight=True)


def main() -> None:
    """Prints the machine code's needs for the head width on the command line."""
    with _compiling() as compiled:
        _launch(width=int(sys.argv[1]))
    for name, kernel in compiled:
        sys.stdout.write(json.dumps({"kernel": name, **_machine_code(kernel)}) + "\n")


if __name__ == "__main__":
    main()
