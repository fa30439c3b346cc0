"""Compiles the gated delta rule's kernels for Hopper without a GPU, with their shipped settings, and prints a report.

Run as a program in a process of its own, since these tests otherwise interpret the kernels. A driver that knows only
the target turns every launch into a compilation; the report is one JSON object, kernel name to figures.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from optimized.gated_delta_rule import gated_delta_rule

__all__ = ["compile_kernels"]


class _TargetOnly:
    """A driver for a Hopper GPU that is not there."""

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        del device
        return 0


def compile_kernels(*, width: int) -> dict[str, dict[str, int]]:
    """Compiles every kernel of a bfloat16 forward and backward pass with ``D = V = width`` and a full GPU of heads."""
    compiled: dict[str, Any] = {}

    def compile_instead(kernel: Any, grid: Any) -> Callable[..., None]:
        def launch(*arguments: Any, **options: Any) -> None:
            name = kernel.__name__ + ("_for_backward" if options.get("FOR_BACKWARD") else "")
            compiled[name] = kernel.run(*arguments, grid=grid, warmup=True, **options)

        return launch

    triton.runtime.driver.set_active(_TargetOnly())
    JITFunction.__getitem__ = compile_instead
    vector = torch.zeros(1, 64, 132, width, dtype=torch.bfloat16, requires_grad=True)
    gate = torch.zeros(1, 64, 132, dtype=torch.bfloat16, requires_grad=True)
    result = gated_delta_rule(vector, vector, vector, gate, gate, scale=0.5, normalize_qk=True)
    torch.autograd.backward(list(result), [torch.zeros_like(x) for x in result])
    return {name: _figures(kernel) for name, kernel in compiled.items()}


def _figures(kernel: Any) -> dict[str, int]:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(kernel.asm["cubin"])
        usage, code = (
            subprocess.run([tool, option, binary], capture_output=True, text=True, check=True).stdout
            for option in ("-res-usage", "-sass")
        )
    registers, stack = (int(re.findall(rf"{word}:(\d+)", usage)[0]) for word in ("REG", "STACK"))
    instructions = {word: len(re.findall(rf"\b{word}\b", code)) for word in ("HGMMA", "LDL", "STL")}
    return {"registers": registers, "stack": stack, "shared": kernel.metadata.shared, **instructions}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(compile_kernels(width=int(sys.argv[1]))))
