"""The processor that kernels are built for, asked where they are interpreted and where they are compiled."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from optimized.catalogue import CANDIDATES
from optimized.kernels.target import INTERPRETER, architecture, refuse_device

ROOT = Path(__file__).parents[2]
"""The checkout."""

SENTENCE = "device: got cpu, expected cuda: compiled Triton kernels need a GPU"

EVERY_KERNEL = """
import torch
from importlib import import_module
x, row, gate, heads, table = (torch.ones(shape) for shape in ((1, 4, 2, 16), (16,), (1, 4, 2), (2,), (1, 4, 16)))
offsets = torch.tensor([0, 4])
calls = {
    "rms_norm": ((x, row), {"eps": 1e-6}),
    "gated_rms_norm": ((x, x, row), {"eps": 1e-6}),
    "l2_norm": ((x,), {}),
    "rope": ((x, table, table), {"style": "half"}),
    "short_conv": ((table, torch.ones(16, 4)), {}),
    "silu_mul": ((x, x), {}),
    "mamba_decay": ((gate, heads, heads), {}),
    "log_sigmoid_decay": ((gate,), {"normalizer": 1.0}),
    "attention": ((x, x, x), {"scale": 1.0}),
    "varlen_attention": ((x[0], x[0], x[0], offsets, offsets), {"scale": 1.0}),
    "gated_delta_rule": ((x, x, x, gate, gate), {"scale": 1.0}),
}
for name, (tensors, options) in calls.items():
    module = import_module(f"optimized.{name}")
    print(name, module.supports(*tensors, **options))
    try:
        getattr(module, name)(*tensors, **options)
    except ValueError as error:
        print(name, error)
"""

WITH_A_DRIVER = """
import torch, triton
from triton.backends.compiler import GPUTarget
from optimized.kernels.target import architecture, num_multiprocessors, refuse_device

class Driver:
    def get_current_target(self): return GPUTarget("cuda", 100, 32)
    def get_active_torch_device(self): return torch.device("cpu")

triton.runtime.driver.set_active(Driver())
device = torch.device("cpu")
print(architecture(device), num_multiprocessors(device), refuse_device(device), refuse_device(torch.device("meta")))
"""


def _compiled(program: str) -> list[str]:
    """Returns what a program prints in a process whose kernels are compiled."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_a_tensor_on_the_cpu_is_declined_by_every_compiled_kernel() -> None:
    files = {path.stem for path in (ROOT / "optimized").glob("*.py")}
    names = {candidate.op for candidate in CANDIDATES if candidate.name.startswith("triton-")} & files
    assert sorted(_compiled(EVERY_KERNEL)) == sorted(2 * [f"{name} {SENTENCE}" for name in names])


def test_a_driver_that_only_compiles_stands_for_its_gpu() -> None:
    assert _compiled(WITH_A_DRIVER) == [f"sm_100 132 None {SENTENCE.replace('cpu', 'meta')}"]


def test_an_amd_gpu_is_declined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "7.0")
    sentence = "device: got an AMD GPU, expected one from NVIDIA: no launch setting was examined there"
    assert refuse_device(torch.device("cuda")) == sentence


def test_the_interpreter_takes_any_device() -> None:
    device = torch.device("cpu")
    assert architecture(device) == INTERPRETER
    assert refuse_device(device) is None
