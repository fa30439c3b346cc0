"""A projection without bias as a matrix-product kernel does it, on operands that are stored.

Rounding points: ``x`` and ``weight`` (operands, where their format is narrower than the storage), ``out``, ``out.grad``
(operand of both gradients), ``x.grad``, ``weight.grad`` (a sum over all tokens).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from harness.emulators.arithmetic import Arithmetic, shared

__all__ = ["emulate"]


def emulate(arithmetic: Arithmetic, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:  # noqa: ARG001 - every emulator has this call
    """Returns ``{"out": x @ weight^T}`` before the final store, differentiable.

    Args:
        arithmetic: the recipe and what happens at its rounding points.
        tensors: ``x`` (..., in) and ``weight`` (out, in) behind the sample axis, both stored.
        options: none.
    """
    out = _Linear.apply(tensors["x"], tensors["weight"], arithmetic)  # type: ignore[no-untyped-call]  # autograd.Function is untyped
    return {"out": out}


class _Linear(torch.autograd.Function):
    """All tokens are rows of one matrix, so that the gradient of the weight is one accumulated sum."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, weight: Tensor, arithmetic: Arithmetic) -> Tensor:
        rows = _operand(arithmetic, "x", shared(x).flatten(1, -2))
        matrix = _operand(arithmetic, "weight", shared(weight))
        ctx.save_for_backward(rows, matrix)
        ctx.arithmetic, ctx.shape = arithmetic, x.shape[1:-1]  # type: ignore[attr-defined]  # contexts take any attribute
        out = arithmetic.product("out", rows, matrix.transpose(-1, -2))
        return arithmetic.all_samples(torch.unflatten(out, 1, x.shape[1:-1]))

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, matrix = ctx.saved_tensors  # type: ignore[attr-defined]  # torch's own attribute
        arithmetic: Arithmetic = ctx.arithmetic  # type: ignore[attr-defined]  # set in forward
        grad = _operand(arithmetic, "out.grad", shared(grads[0]).flatten(1, -2))
        needs_x, needs_weight = ctx.needs_input_grad[:2]  # type: ignore[attr-defined]  # torch's own attribute
        grad_x = grad_weight = None
        if needs_x:
            product = arithmetic.product("x.grad", grad, matrix)
            grad_x = arithmetic.all_samples(torch.unflatten(product, 1, ctx.shape))  # type: ignore[attr-defined]  # set in forward
        if needs_weight:
            grad_weight = arithmetic.all_samples(arithmetic.product("weight.grad", grad.transpose(-1, -2), rows))
        return grad_x, grad_weight, None


def _operand(arithmetic: Arithmetic, point: str, value: Tensor) -> Tensor:
    """Returns a stored tensor as an operand; in the storage format it is one already."""
    if arithmetic.recipe.operand == arithmetic.recipe.storage:
        return value
    return arithmetic.round_operand(point, value)
