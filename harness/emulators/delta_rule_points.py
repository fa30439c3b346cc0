"""Layout, operands and products of the chunked gated delta rule, differentiable like those of the arithmetic.

Matrix products take operands that are rounded already, because each of them enters several products. Where a kernel's
backward pass reads a rounded tensor again (states, residuals, the inverse), so do these.

Letters: ``K`` samples, ``B`` batch, ``T`` tokens, ``G`` query/key heads, ``H`` value heads, ``D`` query/key width,
``V`` value width, ``N`` chunks, ``C`` tokens of a chunk.
"""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional

from harness.emulators.arithmetic import Arithmetic, shared
from harness.emulators.rounding import FORMAT_BITS

__all__ = [
    "Context",
    "apply",
    "chunks",
    "gradient_in_storage",
    "join",
    "multiply",
    "operand",
    "rounds_operands",
    "scaled_operand",
]


def chunks(arithmetic: Arithmetic, point: str, x: Tensor, *, heads: int, length: int) -> Tensor:
    """Returns ``(K, B, T, heads or fewer, width)`` as ``(K, B, H, N, C, width)``, zeros after the last token.

    The gradients of a head that is repeated are stored before they are summed.
    """
    return apply(_Chunks, x, arithmetic, point, heads, length)


def join(x: Tensor, tokens: int) -> Tensor:
    """Returns ``(K, B, H, N, C, width)`` as ``(K, B, T, H, width)``."""
    return x.flatten(3, 4)[:, :, :, :tokens].transpose(2, 3)


def rounds_operands(arithmetic: Arithmetic) -> bool:
    """Returns whether operands are narrower than the accumulator; what they are made of is then stored in between."""
    recipe = arithmetic.recipe
    return FORMAT_BITS[recipe.operand][0] < FORMAT_BITS[recipe.accumulator][0] or arithmetic.is_eager


def operand(arithmetic: Arithmetic, point: str, x: Tensor) -> Tensor:
    """Returns the value as an operand of matrix products; its gradient passes unchanged."""
    return apply(_Operand, x, arithmetic, f"{point}.operand") if rounds_operands(arithmetic) else x


def scaled_operand(arithmetic: Arithmetic, point: str, x: Tensor, factor: Tensor, stored: Tensor) -> Tensor:
    """Returns ``x * factor`` as an operand; the factor's gradient is a sum over the last axis with ``stored`` for x."""
    return apply(_ScaledOperand, x, factor, stored, arithmetic, point)


def multiply(arithmetic: Arithmetic, point: str, left: Tensor, right: Tensor) -> Tensor:
    """Returns the product of two operands; its gradients are two products with the rounded gradient."""
    return apply(_Multiply, left, right, arithmetic, point)


def gradient_in_storage(arithmetic: Arithmetic, point: str, x: Tensor) -> Tensor:
    """Returns the value, whose gradient one kernel stores and another one reads."""
    return apply(_GradientInStorage, x, arithmetic, point) if rounds_operands(arithmetic) else x


def apply(function: type[torch.autograd.Function], *arguments: object) -> Tensor:
    """Returns what an autograd function gives."""
    return function.apply(*arguments)  # type: ignore[no-any-return,no-untyped-call]  # autograd.Function is untyped


class Context(FunctionCtx):
    """What the backward passes below find in their context."""

    arithmetic: Arithmetic
    point: str
    scores_point: str
    tokens: int
    heads: int
    saved_tensors: tuple[Tensor, ...]


class _Chunks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, arithmetic: Arithmetic, point: str, heads: int, length: int) -> Tensor:
        ctx.arithmetic, ctx.point, ctx.tokens, ctx.heads = arithmetic, point, x.shape[2], x.shape[3]
        x = shared(x).repeat_interleave(heads // x.shape[3], dim=3).transpose(2, 3)
        x = functional.pad(x, (0, 0, 0, -ctx.tokens % length))
        return arithmetic.all_samples(x.reshape(*x.shape[:3], -1, length, x.shape[4]))

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        arithmetic = ctx.arithmetic
        grad = join(grads[0], ctx.tokens)
        if grad.shape[3] != ctx.heads:
            if rounds_operands(arithmetic):
                grad = arithmetic.round_storage(f"{ctx.point}.grad", grad)
            grad = grad.reshape(*grad.shape[:3], ctx.heads, -1, grad.shape[4])
            grad = arithmetic.total(f"{ctx.point}.grad.sum", grad, 4)
        return arithmetic.all_samples(grad), None, None, None, None


class _Operand(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, arithmetic: Arithmetic, point: str) -> Tensor:  # noqa: ARG004 - autograd
        return arithmetic.all_samples(arithmetic.round_operand(point, x))

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ARG004 - autograd
        return grads[0], None, None


class _ScaledOperand(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, factor: Tensor, stored: Tensor, arithmetic: Arithmetic, point: str) -> Tensor:
        ctx.arithmetic, ctx.point = arithmetic, point
        ctx.save_for_backward(factor, stored)
        scaled = shared(x) * shared(factor)
        return arithmetic.all_samples(arithmetic.round_operand(f"{point}.operand", scaled))

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        factor, stored = ctx.saved_tensors
        grad_factor = ctx.arithmetic.total(f"{ctx.point}.factor.grad", grads[0] * stored, -1, keepdim=True)
        return grads[0] * factor, ctx.arithmetic.all_samples(grad_factor), None, None, None


class _Multiply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, left: Tensor, right: Tensor, arithmetic: Arithmetic, point: str) -> Tensor:
        ctx.arithmetic, ctx.point = arithmetic, point
        ctx.save_for_backward(left, right)
        return arithmetic.round_intermediate(point, arithmetic.product(point, left, right))

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        arithmetic = ctx.arithmetic
        left, right = ctx.saved_tensors
        grad = arithmetic.round_operand(f"{ctx.point}.grad", grads[0])
        grad_left = arithmetic.product(f"{ctx.point}.left.grad", grad, right.transpose(-1, -2))
        grad_right = arithmetic.product(f"{ctx.point}.right.grad", left.transpose(-1, -2), grad)
        return arithmetic.all_samples(grad_left), arithmetic.all_samples(grad_right), None, None


class _GradientInStorage(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, arithmetic: Arithmetic, point: str) -> Tensor:
        ctx.arithmetic, ctx.point = arithmetic, point
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.arithmetic.all_samples(ctx.arithmetic.round_storage(f"{ctx.point}.grad", grads[0])), None, None
