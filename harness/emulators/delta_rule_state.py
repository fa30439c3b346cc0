"""Inverse and state of the chunked gated delta rule, with the errors that they have in chunks and token by token.

Letters: ``K`` samples, ``B`` batch, ``T`` tokens, ``H`` value heads, ``D`` query/key width, ``V`` value width, ``C``
tokens of a chunk.
"""

import torch
from torch import Tensor

from harness.emulators.arithmetic import Arithmetic, shared
from harness.emulators.delta_rule_points import Context, apply

__all__ = ["inverse", "read_locally", "update_state"]


def inverse(arithmetic: Arithmetic, point: str, coupling: Tensor) -> Tensor:
    """Returns ``X = (I + A)^-1`` of a strictly lower triangular ``A`` as an operand.

    Forward substitution errs in row ``i`` by ``E_ij``, a sum of the terms ``A_ik X_kj``, and the error goes on to
    the rows below: ``X + X E``. Backward: ``dA = -X^T dX X^T``.
    """
    return apply(_Inverse, coupling, arithmetic, point)


def read_locally(
    arithmetic: Arithmetic, points: tuple[str, str], query: Tensor, key: Tensor, between: Tensor, residuals: Tensor
) -> Tensor:
    """Returns ``M R`` with ``M_ij = between_ij (q_i . k_j)`` for ``i >= j``, with the errors of a recurrence too.

    A recurrence has the products ``k_jd r_jv`` in its state and rounds there before it sums over ``d`` with ``q_id``,
    or backward over ``v`` with the gradient ``do_iv``; so ``d q_id`` is a sum over ``v`` that errs for each ``d`` by
    itself, and so on with the gradients of keys and residuals. Where ``q_i . k_j`` or ``do_i . r_j`` is small by
    cancellation, those errors are not: a norm behind the rule makes ``do`` orthogonal to ``out``.

    Args:
        arithmetic: formats and roundings.
        points: names of ``M`` and of the result.
        query: ``(K, ..., C, D)``, an operand.
        key: ``(K, ..., C, D)``, an operand.
        between: ``(K, ..., C, C)``.
        residuals: ``(K, ..., C, V)``, an operand.
    """
    return apply(_LocalReads, query, key, between, residuals, arithmetic, *points)


def update_state(
    arithmetic: Arithmetic,
    point: str,
    carried: tuple[Tensor, Tensor, Tensor],
    written: tuple[Tensor, Tensor],
    remembered: Tensor,
) -> Tensor:
    """Returns ``decay * state + key^T residual`` in the accumulator's format.

    Args:
        arithmetic: formats and roundings.
        point: name.
        carried: decay ``(K, B, H, 1, 1)``, state ``(K, B, H, D, V)`` and the state as an operand, which is what a
            backward pass finds in memory.
        written: key ``(K, B, H, C, D)`` and decayed residual ``(K, B, H, C, V)``, both operands.
        remembered: number of the chunk's tokens whose rounding errors have not decayed, ``(1, B, H, 1, 1)``.
    """
    return apply(_UpdateState, *carried, *written, remembered, arithmetic, point)


class _Inverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, coupling: Tensor, arithmetic: Arithmetic, point: str) -> Tensor:
        ctx.arithmetic, ctx.point = arithmetic, point
        length = coupling.shape[-1]
        identity = torch.eye(length, dtype=coupling.dtype, device=coupling.device)
        solved: Tensor = torch.linalg.solve_triangular(identity + coupling, identity, upper=False, unitriangular=True)

        def gauge() -> Tensor:
            return (coupling[:1].square() @ solved[:1].square()).mul_(length / 2).sqrt_()

        noisy = arithmetic.rounding.accumulate(point, solved, gauge, arithmetic.recipe.accumulator)
        solved = solved + solved @ (noisy - solved)
        rounded = arithmetic.all_samples(arithmetic.round_operand(f"{point}.operand", solved))
        ctx.save_for_backward(rounded)
        return rounded

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        arithmetic = ctx.arithmetic
        point, transposed = ctx.point, ctx.saved_tensors[0].transpose(-1, -2)
        # Above the diagonal X is 0 whatever A is; left there, those gradients would add rounding errors alone.
        grad = arithmetic.round_operand(f"{point}.grad", grads[0].tril(-1))
        half = arithmetic.round_operand(f"{point}.half", arithmetic.product(f"{point}.half", transposed, grad))
        grad = arithmetic.product(f"{point}.coupling", half, transposed).tril(-1).neg()
        return arithmetic.all_samples(arithmetic.round_operand(f"{point}.coupling.grad", grad)), None, None


class _LocalReads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context,
        query: Tensor,
        key: Tensor,
        between: Tensor,
        residuals: Tensor,
        arithmetic: Arithmetic,
        scores_point: str,
        point: str,
    ) -> Tensor:
        ctx.arithmetic, ctx.point, ctx.scores_point = arithmetic, point, scores_point
        products = arithmetic.product(scores_point, query, key.transpose(-1, -2))
        products = arithmetic.round_intermediate(scores_point, products)
        scores = arithmetic.round_operand(f"{scores_point}.operand", (products * between).tril())
        squares = query[:1].square() @ key[:1].square().transpose(-1, -2) * between[:1].square().tril()
        squares += scores[:1].square()
        scores = arithmetic.all_samples(scores)
        ctx.save_for_backward(query, key, between, residuals, products, scores, squares)
        local = _through_state(arithmetic, point, scores, residuals, squares, query.shape[-1])
        return arithmetic.round_intermediate(point, local)

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        arithmetic, point, scores_point = ctx.arithmetic, ctx.point, ctx.scores_point
        query, key, between, residuals, products, scores, squares = ctx.saved_tensors
        grad = arithmetic.round_operand(f"{point}.grad", grads[0])
        grad_scores = arithmetic.product(f"{point}.left.grad", grad, residuals.transpose(-1, -2)).tril()
        grad_residuals = _through_state(
            arithmetic,
            f"{point}.right.grad",
            scores.transpose(-1, -2),
            grad,
            squares.transpose(-1, -2),
            query.shape[-1],
        )
        grad_products = arithmetic.round_operand(f"{scores_point}.grad", grad_scores * between)
        squares = grad[:1].square() @ residuals[:1].square().transpose(-1, -2) * between[:1].square().tril()
        squares += grad_products[:1].square()
        width = residuals.shape[-1]
        grad_query = _through_state(arithmetic, f"{scores_point}.left.grad", grad_products, key, squares, width)
        grad_products, squares = grad_products.transpose(-1, -2), squares.transpose(-1, -2)
        grad_key = _through_state(arithmetic, f"{scores_point}.right.grad", grad_products, query, squares, width)
        found = (grad_query, grad_key, grad_scores * products, grad_residuals)
        return (*(arithmetic.all_samples(x) for x in found), None, None, None)


def _through_state(
    arithmetic: Arithmetic, point: str, left: Tensor, right: Tensor, squares: Tensor, width: int
) -> Tensor:
    """Returns ``left @ right``; ``squares`` are sums over ``width`` of the squared terms of ``left``, one sample."""
    left, right = shared(left), shared(right)

    def gauge() -> Tensor:
        return (squares @ right[:1].square()).mul_((left.shape[-1] + width) / 2).sqrt_()

    return arithmetic.rounding.accumulate(point, left @ right, gauge, arithmetic.recipe.accumulator)


class _UpdateState(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context,
        decay: Tensor,
        state: Tensor,
        stored: Tensor,
        key: Tensor,
        residual: Tensor,
        remembered: Tensor,
        arithmetic: Arithmetic,
        point: str,
    ) -> Tensor:
        ctx.arithmetic, ctx.point = arithmetic, point
        ctx.save_for_backward(decay, stored, key, residual, remembered)
        carried = decay * state
        value = carried + shared(key).transpose(-1, -2) @ residual

        def gauge() -> Tensor:
            squares = key[:1].transpose(-1, -2).square() @ residual[:1].square()
            return (value.square() + carried.square()).mul_(remembered).add_(squares, alpha=key.shape[-2] / 2).sqrt_()

        return arithmetic.rounding.accumulate(point, value, gauge, arithmetic.recipe.accumulator)

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        decay, stored, key, residual, remembered = ctx.saved_tensors
        arithmetic = ctx.arithmetic
        point = ctx.point
        grad = shared(grads[0])
        size = remembered.sqrt()
        grad = arithmetic.rounding.accumulate(
            f"{point}.grad", grad, lambda: grad.abs() * size, arithmetic.recipe.accumulator
        )
        rounded = arithmetic.all_samples(arithmetic.round_operand(f"{point}.grad.operand", grad))
        grad_key = arithmetic.product(f"{point}.key.grad", residual, rounded.transpose(-1, -2))
        grad_residual = arithmetic.product(f"{point}.residual.grad", key, rounded)
        grad_decay = arithmetic.total(f"{point}.decay.grad", stored * rounded, (-1, -2), keepdim=True)
        return grad_decay, decay * grad, None, grad_key, grad_residual, None, None, None
