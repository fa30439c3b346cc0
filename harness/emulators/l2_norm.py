"""L2 normalisation as kernels do it: squares, their sum, one reciprocal root per row, one product.

Rounding points: ``squares`` (eager only), ``total``, ``shifted`` (sum plus eps), ``root`` (the reciprocal root),
``root.cube`` (its third power, in the derivative) and, eager only, ``rows`` (a share of the root's noise in every
element), the gradients that meet in x, ``x.squares.grad`` and ``x.rows.grad``, and the products under the root's
gradient, ``products.grad``.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from harness.emulators.arithmetic import Arithmetic, shared
from harness.emulators.parts import gradient_kept, on_gradient
from harness.emulators.rounding import half_ulp, unit

__all__ = ["emulate", "unit_rows"]


def emulate(arithmetic: Arithmetic, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns ``{"out": x / sqrt(sum(x^2) + eps)}`` before the final store, differentiable.

    Args:
        arithmetic: the recipe and what happens at its rounding points.
        tensors: ``x``, any shape behind the sample axis.
        options: ``eps``.
    """
    return {"out": unit_rows(arithmetic, tensors["x"], count=1, eps=float(options.get("eps", 1e-6)))}


def unit_rows(arithmetic: Arithmetic, x: Tensor, *, count: int, eps: float) -> Tensor:
    """Returns ``x / sqrt(sum(x^2) / count + eps)`` over the last axis; the final product is not rounded.

    The noise of a row's root, forward and backward, moves the whole row; with that of the sums it covers what a fused
    kernel does to single elements, except for the product itself, whose rounding is that of the result.
    """
    for_squares = _spread_gradient(arithmetic, "x.squares", x)
    squares = for_squares * for_squares
    if arithmetic.is_eager:
        # Their gradient is one stored number per row: it needs no second rounding.
        stored = arithmetic.round_intermediate("squares", squares.detach())
        squares = squares + (stored - squares.detach())
    total = arithmetic.sum("total", squares, -1, keepdim=True)
    shifted = arithmetic.keep("shifted", total / count + eps)
    # Squares of float16 lie in its subnormals already at 1e-3: noise must not carry the sum below what eps alone gives.
    shifted = shifted + (shifted.detach().clamp_min(eps) - shifted.detach())
    root = _InverseRoot.apply(shifted, arithmetic)  # type: ignore[no-untyped-call]  # autograd.Function is untyped
    column = gradient_kept(arithmetic, "products", arithmetic.spread("root", root, x.shape))
    rows = _spread_gradient(arithmetic, "x.rows", x) * column
    return arithmetic.approximate("rows", rows, unit(arithmetic.intermediates)) if arithmetic.is_eager else rows


def _spread_gradient(arithmetic: Arithmetic, point: str, x: Tensor) -> Tensor:
    """Returns x; an eager implementation stores the gradient of this use, and it gets the noise of two roundings.

    Most of the error is that of the row's few stored numbers. Eight samples of a number can all lie near zero, which
    happens to one row in some thousand; elements each with a noise of the same size cannot.
    """
    if not arithmetic.is_eager:
        return x
    fmt = arithmetic.intermediates

    def change(grad: Tensor) -> Tensor:
        grad = shared(grad)
        return arithmetic.rounding.accumulate(
            f"{point}.grad", grad, lambda: half_ulp(grad, fmt).mul_(2.0 / unit(fmt)), fmt
        )

    return on_gradient(arithmetic, x, change)


class _InverseRoot(torch.autograd.Function):
    """The reciprocal root, whose derivative is made of the kept result: in float16 its cube may underflow."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, arithmetic: Arithmetic) -> Tensor:
        value = arithmetic.rounding.approximate("root", shared(x).rsqrt(), arithmetic.exp_error)
        value = arithmetic.round_intermediate("root", value)
        ctx.save_for_backward(value)
        ctx.arithmetic = arithmetic  # type: ignore[attr-defined]  # contexts take any attribute
        return value

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        (value,) = ctx.saved_tensors  # type: ignore[attr-defined]  # torch's own attribute
        arithmetic: Arithmetic = ctx.arithmetic  # type: ignore[attr-defined]  # set in forward
        grad = arithmetic.round_intermediate("root.grad", grads[0])
        cube = arithmetic.rounding.round("root.cube", value**3, arithmetic.intermediates, keeps_exact=False)
        return grad * cube * -0.5, None
