"""The processor that kernels are built for, asked where they are interpreted and where they are compiled."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from optimized.kernels.target import INTERPRETER, architecture, refuse_device

SENTENCE = "device: got cpu, expected cuda: compiled Triton kernels need a GPU"

EVERY_KERNEL = """
import torch
from optimized import attention, gated_delta_rule, rms_norm
x, gate = torch.ones(1, 4, 2, 16), torch.zeros(1, 4, 2)
calls = (
    (rms_norm.rms_norm, rms_norm.supports, (x, x[0, 0, 0]), {"eps": 1e-6}),
    (attention.attention, attention.supports, (x, x, x), {"scale": 1.0}),
    (gated_delta_rule.gated_delta_rule, gated_delta_rule.supports, (x, x, x, gate, gate), {"scale": 1.0}),
)
for call, supports, tensors, options in calls:
    print(supports(*tensors, **options))
    try:
        call(*tensors, **options)
    except ValueError as error:
        print(error)
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
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_a_tensor_on_the_cpu_is_declined_by_every_compiled_kernel() -> None:
    assert _compiled(EVERY_KERNEL) == [SENTENCE] * 6


def test_a_driver_that_only_compiles_stands_for_its_gpu() -> None:
    assert _compiled(WITH_A_DRIVER) == [f"sm_100 132 None {SENTENCE.replace('cpu', 'meta')}"]


def test_the_interpreter_takes_any_device() -> None:
    device = torch.device("cpu")
    assert architecture(device) == INTERPRETER
    assert refuse_device(device) is None
