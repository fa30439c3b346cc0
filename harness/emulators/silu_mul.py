"""SiLU gating as kernels do it.

Rounding points: ``silu.sigmoid``, ``silu`` (stored by eager implementations, its gradient too) and ``silu.slope``, the
derivative.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from harness.emulators.arithmetic import Arithmetic
from harness.emulators.parts import silu

__all__ = ["emulate"]


def emulate(arithmetic: Arithmetic, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:  # noqa: ARG001 - every emulator has this call
    """Returns ``{"out": silu(gate) * x}`` before the final store, differentiable.

    Args:
        arithmetic: the recipe and what happens at its rounding points.
        tensors: ``gate`` and ``x``, of one shape behind the sample axis.
        options: none.
    """
    return {"out": silu(arithmetic, "silu", tensors["gate"]) * tensors["x"]}
