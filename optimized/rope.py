"""Rotary position embedding on Triton kernels, forward and backward.

A pair ``(a, b)`` of channels with its cosines and sines becomes ``(a cos_a - b sin_a, b cos_b + a sin_b)``. With the
cotangents ``(g, h)`` of the pair::

    da = g cos_a + h sin_b        dcos_a = sum over heads of g a        dsin_a = -sum over heads of g b
    db = h cos_b - g sin_a        dcos_b = sum over heads of h b        dsin_b =  sum over heads of h a

Everything is float32 inside; results are rounded when they are stored. The gradients of the tables are computed only if
one of them is wanted; a program then has all heads of its tokens and adds them up in their order.
Letters: B batch, T tokens, H heads, D channels of a head, R rotated channels.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from optimized.eager.checks import check_multiple, check_shape
from optimized.eager.rope import check_style
from optimized.kernels.rope_launch import launch_backward, launch_forward
from optimized.kernels.support import refuse_tensors

__all__ = ["rope", "rope_partial", "supports"]


def rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, style: str) -> torch.Tensor:
    """Returns ``x * cos + rotate(x) * sin``.

    Args:
        x: ``(B, T, H, R)``, R even, float32, bfloat16 or float16, any strides; the result has its shape and format and
            is contiguous.
        cos: ``(B, T, R)``, the cosines of the angles, laid out as ``style`` pairs the channels; one of these formats,
            not necessarily that of ``x``; any strides, 0 included.
        sin: ``(B, T, R)``, likewise.
        style: "half" turns the pairs (i, i + R/2), "interleaved" the pairs (2i, 2i + 1).

    Raises:
        ValueError: a shape disagrees, R is odd, the style is unknown, or ``supports`` names a reason.

    Source: Su et al., "RoFormer", section 3.4.2.
    """
    check_shape("x", x, ("B", "T", "H", "R"))
    return _checked(x, cos, sin, rotated=x.shape[3], style=style)


def rope_partial(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, style: str) -> torch.Tensor:
    """Returns ``x`` with its first R channels turned as ``rope`` does and the others copied, in one kernel.

    Args:
        x: ``(B, T, H, D)``, as in ``rope``.
        cos: ``(B, T, R)``, R even and at most D, as in ``rope``.
        sin: ``(B, T, R)``, likewise.
        style: as in ``rope``, of the R channels.

    Raises:
        ValueError: a shape disagrees, R is odd or more than D, the style is unknown, or ``supports`` names a reason.

    Source: Black et al., "GPT-NeoX-20B", section 2.1.1 (a part of the channels is turned).
    """
    check_shape("x", x, ("B", "T", "H", "D"))
    if cos.ndim != 3 or cos.shape[2] > x.shape[3]:
        raise ValueError(f"cos: got shape {tuple(cos.shape)}, expected (B, T, R) with R at most {x.shape[3]}")
    return _checked(x, cos, sin, rotated=cos.shape[2], style=style)


def supports(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, style: str) -> str | None:  # noqa: ARG001  # the call's own arguments
    """Returns None if ``rope`` and ``rope_partial`` compute this call, else a sentence that says why not."""
    return refuse_tensors(x, cos, sin)


def _checked(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, rotated: int, style: str) -> torch.Tensor:
    """Returns the result for an ``x`` of four axes, or raises."""
    check_multiple("rotated channels", rotated, 2)
    for name, table in (("cos", cos), ("sin", sin)):
        check_shape(name, table, (*x.shape[:2], rotated))
    check_style(style)
    reason = supports(x, cos, sin, style=style)
    if reason is not None:
        raise ValueError(reason)
    result: torch.Tensor = _Rope.apply(x, cos, sin, style)  # type: ignore[no-untyped-call]  # torch
    return result


class _Rope(torch.autograd.Function):
    """Ties the forward and the backward kernel together."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # takes attributes
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        style: str,
    ) -> torch.Tensor:
        # Without gradients of the tables, the backward pass needs no x: it need not live until then.
        ctx.save_for_backward(x if any(ctx.needs_input_grad[1:3]) else None, cos, sin)
        ctx.style = style
        # Triton launches on the current device, which need not be that of the tensors (autograd sees to it backwards).
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # torch
            return launch_forward(x, cos, sin, style=style)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401  # takes attributes
        out_gradient: torch.Tensor,
    ) -> tuple[torch.Tensor | None, ...]:
        x, cos, sin = ctx.saved_tensors
        return *launch_backward(x, cos, sin, out_gradient, style=ctx.style), None
