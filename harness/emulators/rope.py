"""Rotary position embedding as kernels do it: two products and their sum per channel.

Rounding points: ``out`` and ``x.grad`` (the two products that are added; eager, each of them is stored first, as
``.first`` and ``.second``), ``cos.grad`` and ``sin.grad`` (sums over heads) and, eager only, their terms.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from harness.emulators.arithmetic import Arithmetic, shared

__all__ = ["emulate"]


def emulate(arithmetic: Arithmetic, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns ``{"out": x * cos + rotate(x) * sin}`` before the final store, differentiable.

    Args:
        arithmetic: the recipe and what happens at its rounding points.
        tensors: ``x`` (B, T, H, R), ``cos`` and ``sin`` (B, T, R) behind the sample axis.
        options: ``style``, "half" or "interleaved".
    """
    out = _Turn.apply(  # type: ignore[no-untyped-call]  # autograd.Function is untyped
        tensors["x"], tensors["cos"], tensors["sin"], arithmetic, str(options["style"])
    )
    return {"out": out}


class _Turn(torch.autograd.Function):
    """The rotation; backwards it is the rotation by the opposite angle."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        arithmetic: Arithmetic,
        style: str,
    ) -> Tensor:
        x, cos, sin = shared(x), shared(cos).unsqueeze(3), shared(sin).unsqueeze(3)
        ctx.save_for_backward(x, cos, sin)
        ctx.arithmetic, ctx.style = arithmetic, style  # type: ignore[attr-defined]  # contexts take any attribute
        return arithmetic.all_samples(_added(arithmetic, "out", x * cos, _rotated(x, style) * sin))

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, cos, sin = ctx.saved_tensors  # type: ignore[attr-defined]  # torch's own attribute
        arithmetic, style = ctx.arithmetic, ctx.style  # type: ignore[attr-defined]  # set in forward
        grad = shared(grads[0])
        grad_x = _added(arithmetic, "x.grad", grad * cos, -_rotated(grad * sin, style))
        tables: list[Tensor | None] = [None, None]
        for index, (name, factor) in enumerate((("cos", x), ("sin", _rotated(x, style)))):
            if ctx.needs_input_grad[1 + index]:  # type: ignore[attr-defined]  # torch's own attribute
                products = grad * factor
                if arithmetic.is_eager:
                    products = arithmetic.round_intermediate(f"{name}.products.grad", products)
                tables[index] = arithmetic.all_samples(arithmetic.total(f"{name}.grad", products, 3))
        return arithmetic.all_samples(grad_x), *tables, None, None


def _rotated(x: Tensor, style: str) -> Tensor:
    """Returns each pair (a, b) of channels as (-b, a)."""
    pairs = torch.unflatten(x, -1, (2, -1) if style == "half" else (-1, 2))
    axis = -2 if style == "half" else -1
    first, second = pairs.unbind(axis)
    return torch.stack((-second, first), axis).flatten(-2)


def _added(arithmetic: Arithmetic, point: str, first: Tensor, second: Tensor) -> Tensor:
    """Returns the sum of two products; an eager implementation stores both before it adds them."""
    if arithmetic.is_eager:
        first = arithmetic.round_intermediate(f"{point}.first", first)
        second = arithmetic.round_intermediate(f"{point}.second", second)
        return first + second

    def gauge() -> Tensor:
        return (first * first).addcmul_(second, second).sqrt_()

    return arithmetic.rounding.accumulate(point, first + second, gauge, arithmetic.recipe.accumulator)
