"""L2 normalisation over the last axis on Triton kernels, forward and backward.

``y = x r`` with ``r = 1 / sqrt(sum(x^2) + eps)``, and with the cotangent ``g``::

    dx = r (g - y sum(g y))

The backward pass computes ``r`` again from ``x``. Everything is float32 inside; the output and the
gradient are rounded when they are stored. Letters: C channels, the last axis.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from optimized.kernels.l2_norm_launch import launch_backward, launch_forward
from optimized.kernels.support import check_eps, refuse_tensors

__all__ = ["l2_norm", "supports"]


def l2_norm(x: torch.Tensor, *, eps: float = 1e-6) -> torch.Tensor:
    """Returns ``x / sqrt(sum(x^2) + eps)`` over the last axis.

    A zero row gives 0, and its gradient is the cotangent over ``sqrt(eps)``. Squares are summed in float32: a row of
    magnitude beyond 2^63 overflows.

    Args:
        x: ``(..., C)``, float32, bfloat16 or float16; the result has its shape and format and is contiguous. Up to
            three axes before the last may have any strides; a tensor of more irregular axes is copied first.
        eps: added inside the root, positive in float32.

    Raises:
        ValueError: ``x`` has no axis, ``eps`` is not positive, or ``supports`` names a reason.

    Source: the convention of flash-linear-attention's ``l2norm`` (eps inside the root).
    """
    if x.ndim == 0:
        raise ValueError("x: got shape (), expected (..., C)")
    check_eps(eps)
    reason = supports(x, eps=eps)
    if reason is not None:
        raise ValueError(reason)
    result: torch.Tensor = _L2Norm.apply(x, float(eps))  # type: ignore[no-untyped-call]  # torch
    return result


def supports(x: torch.Tensor, *, eps: float = 1e-6) -> str | None:  # noqa: ARG001  # the call's own arguments
    """Returns None if ``l2_norm`` computes this call, else a sentence that says why not; arguments as there."""
    return refuse_tensors(x)


class _L2Norm(torch.autograd.Function):
    """Ties the forward and the backward kernel together."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # takes attributes
        x: torch.Tensor,
        eps: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.eps = eps
        # Triton launches on the current device, which need not be that of the tensors (autograd sees to it backwards).
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # torch
            return launch_forward(x, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401  # takes attributes
        out_gradient: torch.Tensor,
    ) -> tuple[torch.Tensor, None]:
        (x,) = ctx.saved_tensors
        return launch_backward(x, out_gradient, eps=ctx.eps), None
