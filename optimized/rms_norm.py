"""RMSNorm over the last axis on Triton kernels, forward and backward.

``y = x r w`` with ``r = 1 / sqrt(mean(x^2) + eps)`` and ``w = weight`` or ``1 + weight`` (Zhang and Sennrich, 2019).
With the cotangent ``g``, ``x^ = x r`` and ``h = g w``::

    dx = r (h - x^ mean(h x^))        dweight = sum over rows of g x^

Each pass reads ``x`` once (twice if a row is wider than 8192) and computes ``r`` again instead of storing it.
Everything is float32 inside; the output and the gradients are rounded when they are stored. A program of the backward
pass adds up the weight gradient of its own rows, in float32, and torch adds up the programs in a fixed order: gradients
repeat bit by bit. Letters: C channels, the last axis.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from optimized.kernels.rms_norm_launch import launch_backward, launch_forward
from optimized.kernels.support import check_eps, refuse_tensors

__all__ = ["rms_norm", "supports"]

_MAX_WIDTH = 32768


def rms_norm(x: torch.Tensor, weight: torch.Tensor, *, eps: float, zero_centered: bool = False) -> torch.Tensor:
    """Returns ``x / sqrt(mean(x^2) + eps) * w`` over the last axis, ``w = weight`` or ``1 + weight``.

    A zero row gives 0 with a finite gradient. Squares are summed in float32: a row of magnitude beyond 2^63 overflows.

    Args:
        x: ``(..., C)``, float32, bfloat16 or float16; the result has its shape and format and is contiguous. Up to
            three axes before the last may have any strides; a tensor of more irregular axes is copied first.
        weight: ``(C,)``, one of these formats, not necessarily that of ``x``.
        eps: added inside the root, positive in float32.
        zero_centered: whether the factor is ``1 + weight``.

    Raises:
        ValueError: a shape or ``eps`` is wrong, or ``supports`` names a reason.
    """
    if x.ndim == 0 or weight.shape != x.shape[-1:]:
        raise ValueError(f"weight: got shape {tuple(weight.shape)}, expected the last axis of x {tuple(x.shape)}")
    check_eps(eps)
    reason = supports(x, weight, eps=eps, zero_centered=zero_centered)
    if reason is not None:
        raise ValueError(reason)
    result: torch.Tensor = _RmsNorm.apply(x, weight, float(eps), zero_centered)  # type: ignore[no-untyped-call]  # torch
    return result


def supports(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    eps: float,  # noqa: ARG001  # the call's own arguments
    zero_centered: bool = False,  # noqa: ARG001  # the call's own arguments
) -> str | None:
    """Returns None if ``rms_norm`` computes this call, else a sentence that says why not; arguments as there."""
    if not 0 < x.shape[-1] <= _MAX_WIDTH:
        return f"x: got {x.shape[-1]} channels, expected 1 to {_MAX_WIDTH}"
    return refuse_tensors(x, weight)


class _RmsNorm(torch.autograd.Function):
    """Ties the forward and the backward kernel together."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # takes attributes
        x: torch.Tensor,
        weight: torch.Tensor,
        eps: float,
        zero_centered: bool,  # noqa: FBT001  # autograd passes positional arguments
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps, ctx.zero_centered = eps, zero_centered
        # Triton launches on the current device, which need not be that of the tensors (autograd sees to it backwards).
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # torch
            return launch_forward(x, weight, eps=eps, zero_centered=zero_centered)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401  # takes attributes
        out_gradient: torch.Tensor,
    ) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradients = launch_backward(
            x, weight, out_gradient, eps=ctx.eps, zero_centered=ctx.zero_centered, of_weight=ctx.needs_input_grad[1]
        )
        return gradients.x, gradients.weight, None, None
