"""SiLU gating on Triton kernels, forward and backward.

``y = silu(gate) x`` with ``silu(a) = a s``, ``s = 1 / (1 + exp(-a))``. With the cotangent ``g``::

    dgate = g x (s + a s (1 - s))        dx = g a s

One kernel gives both gradients and computes ``s`` and ``1 - s`` again, both from ``exp(-|a|)``, which cannot overflow.
Everything is float32 inside; results are rounded when they are stored.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from optimized.kernels.silu_mul_launch import launch_backward, launch_forward
from optimized.kernels.support import refuse_tensors

__all__ = ["silu_mul", "supports"]


def silu_mul(gate: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Returns ``silu(gate) * x`` with ``silu(a) = a / (1 + exp(-a))``; no finite gate gives NaN.

    Args:
        gate: any shape, float32, bfloat16 or float16. Up to three axes before the last may have any strides, for
            instance those of one half of a fused projection; a tensor of more irregular axes is copied first.
        x: the shape of ``gate``, one of these formats; the result has its shape and format and is contiguous.

    Raises:
        ValueError: the shapes differ, or ``supports`` names a reason.

    Source: Shazeer, "GLU Variants Improve Transformer", equation 6.
    """
    if gate.shape != x.shape:
        raise ValueError(f"x: got shape {tuple(x.shape)}, expected the shape of gate, {tuple(gate.shape)}")
    reason = supports(gate, x)
    if reason is not None:
        raise ValueError(reason)
    result: torch.Tensor = _SiluMul.apply(gate, x)  # type: ignore[no-untyped-call]  # torch
    return result


def supports(gate: torch.Tensor, x: torch.Tensor) -> str | None:
    """Returns None if ``silu_mul`` computes this call, else a sentence that says why not; arguments as there."""
    return refuse_tensors(gate, x)


class _SiluMul(torch.autograd.Function):
    """Ties the forward and the backward kernel together."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # takes attributes
        gate: torch.Tensor,
        x: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(gate, x)
        # Triton launches on the current device, which need not be that of the tensors (autograd sees to it backwards).
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # torch
            return launch_forward(gate, x)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401  # takes attributes
        out_gradient: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        gate, x = ctx.saved_tensors
        return launch_backward(gate, x, out_gradient)
