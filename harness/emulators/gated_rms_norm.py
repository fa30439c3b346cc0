"""RMSNorm with a SiLU gate as kernels do it: the norm, then the gate.

Rounding points: those of ``rms_norm`` and of ``silu_mul`` under their own names, and ``norm``, the normalised rows
times the weight, which an eager implementation stores, its gradient too, and a fused one holds in the accumulator's
format.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from harness.emulators import rms_norm, silu_mul
from harness.emulators.arithmetic import Arithmetic

__all__ = ["emulate"]


def emulate(arithmetic: Arithmetic, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns ``{"out": silu(gate) * x / sqrt(mean(x^2) + eps) * w}`` before the final store, differentiable.

    Args:
        arithmetic: the recipe and what happens at its rounding points.
        tensors: ``x`` and ``gate`` (..., C) and ``weight`` (C,) behind the sample axis.
        options: ``eps`` and ``zero_centered`` (``w = 1 + weight``).
    """
    norm = rms_norm.emulate(arithmetic, {"x": tensors["x"], "weight": tensors["weight"]}, options)["out"]
    return silu_mul.emulate(arithmetic, {"gate": tensors["gate"], "x": arithmetic.keep("norm", norm)}, {})
