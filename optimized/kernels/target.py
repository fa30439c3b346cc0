"""The processor that kernels are built for: Triton's interpreter, or the architecture of a GPU.

Triton's own driver is asked, and nothing else: a driver that only compiles, for a GPU that is not there, makes every
launcher choose the settings that it would ship to that GPU.
"""

from typing import Final

import torch
import triton

from optimized.kernels.assembler import choose_assembler
from optimized.kernels.precision import kernels_are_interpreted

__all__ = ["INTERPRETER", "architecture", "num_multiprocessors", "refuse_device"]

INTERPRETER: Final = "interpreter"
"""Architecture name of Triton's interpreter; a GPU's is ``sm_90`` and the like."""

_HOPPER_MULTIPROCESSORS: Final = 132


def architecture(device: torch.device) -> str:
    """Returns ``"interpreter"`` or the name of the GPU's architecture, for instance ``"sm_90"``."""
    if kernels_are_interpreted():
        return INTERPRETER
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        arch = f"sm_{major}{minor}"
    else:
        arch = f"sm_{triton.runtime.driver.active.get_current_target().arch}"
    choose_assembler(arch)  # whoever asks is about to launch
    return arch


def num_multiprocessors(device: torch.device) -> int:
    """Returns how many programs run side by side at least; a Hopper GPU's number where none is there to ask."""
    if device.type != "cuda":
        return _HOPPER_MULTIPROCESSORS
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count


def refuse_device(device: torch.device) -> str | None:
    """Returns None if kernels can run on tensors of ``device``, else a sentence that says why not."""
    if device.type == "cuda" and torch.version.hip is not None:
        return "device: got an AMD GPU, expected one from NVIDIA: no launch setting was examined there"
    if kernels_are_interpreted():
        return None
    if device.type == _driver_device():
        return choose_assembler(architecture(device))
    return f"device: got {device.type}, expected cuda: compiled Triton kernels need a GPU"


def _driver_device() -> str:
    """Returns the type of the device that Triton launches on, ``"none"`` without a GPU."""
    try:
        device: torch.device = triton.runtime.driver.active.get_active_torch_device()
    except RuntimeError:  # Triton's "0 active drivers"
        return "none"
    return device.type
