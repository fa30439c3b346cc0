"""RMSNorm over the last axis times a SiLU gate on Triton kernels, one forward and one backward.

``y = silu(z) x r w`` with ``r = 1 / sqrt(mean(x^2) + eps)`` and ``w = weight`` or ``1 + weight``: what Gated DeltaNet
does after its delta rule (Yang et al., "Gated Delta Networks", 2024, section 3.4). With the cotangent ``g``,
``x^ = x r``, the logistic function ``s`` and ``h = g silu(z) w``::

    dx = r (h - x^ mean(h x^))        dz = g x^ w s(z) (1 + z (1 - s(z)))        dweight = sum over rows of g silu(z) x^

Each pass reads ``x`` and the gate once (twice if a row is wider than 4096) and stores nothing between them. Everything
is float32 inside; the output and the gradients are rounded when they are stored. A program of the backward pass adds up
the weight gradient of its own rows, in float32, and torch adds up the programs in a fixed order: gradients repeat bit
by bit. Letters: C channels, the last axis.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from optimized.kernels.rms_norm_launch import launch_backward, launch_forward
from optimized.kernels.support import check_eps, refuse_tensors

__all__ = ["gated_rms_norm", "supports"]

_MAX_WIDTH = 32768


def gated_rms_norm(
    x: torch.Tensor, gate: torch.Tensor, weight: torch.Tensor, *, eps: float, zero_centered: bool = False
) -> torch.Tensor:
    """Returns ``silu(gate) * x / sqrt(mean(x^2) + eps) * w`` over the last axis, ``w = weight`` or ``1 + weight``.

    A zero row gives 0 with a finite gradient, a large gate of either sign no NaN. Squares are summed in float32: a row
    of magnitude beyond 2^63 overflows.

    Args:
        x: ``(..., C)``, float32, bfloat16 or float16; the result has its shape and format and is contiguous. Up to
            three axes before the last may have any strides; a tensor of more irregular axes is copied first.
        gate: the shape of ``x``, one of these formats, with strides of its own.
        weight: ``(C,)``, one of these formats.
        eps: added inside the root, positive in float32.
        zero_centered: whether the factor is ``1 + weight``.

    Raises:
        ValueError: a shape or ``eps`` is wrong, or ``supports`` names a reason.
    """
    if x.ndim == 0 or weight.shape != x.shape[-1:]:
        raise ValueError(f"weight: got shape {tuple(weight.shape)}, expected the last axis of x {tuple(x.shape)}")
    if gate.shape != x.shape:
        raise ValueError(f"gate: got shape {tuple(gate.shape)}, expected the shape of x, {tuple(x.shape)}")
    check_eps(eps)
    reason = supports(x, gate, weight, eps=eps, zero_centered=zero_centered)
    if reason is not None:
        raise ValueError(reason)
    result: torch.Tensor = _GatedRmsNorm.apply(x, gate, weight, float(eps), zero_centered)  # type: ignore[no-untyped-call]  # torch
    return result


def supports(
    x: torch.Tensor,
    gate: torch.Tensor,
    weight: torch.Tensor,
    *,
    eps: float,  # noqa: ARG001  # the call's own arguments
    zero_centered: bool = False,  # noqa: ARG001  # the call's own arguments
) -> str | None:
    """Returns None if ``gated_rms_norm`` computes this call, else a sentence that says why not; arguments as there."""
    if not 0 < x.shape[-1] <= _MAX_WIDTH:
        return f"x: got {x.shape[-1]} channels, expected 1 to {_MAX_WIDTH}"
    return refuse_tensors(x, gate, weight)


class _GatedRmsNorm(torch.autograd.Function):
    """Ties the forward and the backward kernel together."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # takes attributes
        x: torch.Tensor,
        gate: torch.Tensor,
        weight: torch.Tensor,
        eps: float,
        zero_centered: bool,  # noqa: FBT001  # autograd passes positional arguments
    ) -> torch.Tensor:
        ctx.save_for_backward(x, gate, weight)
        ctx.eps, ctx.zero_centered = eps, zero_centered
        # Triton launches on the current device, which need not be that of the tensors (autograd sees to it backwards).
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # torch
            return launch_forward(x, weight, eps=eps, zero_centered=zero_centered, gate=gate)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401  # takes attributes
        out_gradient: torch.Tensor,
    ) -> tuple[torch.Tensor | None, ...]:
        x, gate, weight = ctx.saved_tensors
        gradients = launch_backward(
            x,
            weight,
            out_gradient,
            eps=ctx.eps,
            zero_centered=ctx.zero_centered,
            of_weight=ctx.needs_input_grad[2],
            gate=gate,
        )
        return *gradients, None, None
