"""Legal executions of the gated delta rule: chunks of several lengths in the WY form.

In the WY form, with ``g`` the log decay summed from the chunk's start,

    A_ij = beta_i exp(g_i - g_j) (k_i . k_j),  i > j      X = (I + A)^-1
    W = X diag(beta exp(g)) K    U = X diag(beta) V       R = U - W S
    out = scale (diag(exp(g)) Q S + M R)                  M_ij = exp(g_i - g_j) (q_i . k_j),  i >= j
    S'  = exp(g_C) S + K^T diag(exp(g_C - g)) R

Operands of every product, those of its gradient too, are rounded to the storage format; sums and the carried state are
float32. A wide execution rounds no operand.

Letters: B batch, T tokens, G query/key heads, H value heads, D query/key head width, V value head width, C tokens of a
chunk.

Source: Yang et al., arXiv 2406.06484, section 3, and arXiv 2412.06464, section 3.3.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tests.variants.delta_rule_call import Run, rule
from tests.variants.inverses import by_solve

__all__ = ["make_wy"]

_LITTLE = 3.0
"""Log decay of a chunk that may be taken to the sides: factors from ``exp(-3)`` to ``exp(3)`` lose units, no bits."""


def make_wy(
    *,
    chunk: int,
    is_reversed: bool = False,
    invert: Callable[[Tensor], Tensor] = by_solve,
    is_wide: bool = False,
    decays_sides: bool = False,
) -> Run:
    """Returns ``gated_delta_rule`` in chunks of the WY form.

    Args:
        chunk: tokens of a chunk.
        is_reversed: whether products are summed from the last term to the first.
        invert: gives ``(I + A)^-1`` of A.
        is_wide: whether no operand is rounded.
        decays_sides: whether the first decay of a chunk, down to ``exp(-3)``, is taken to the two sides of a product,
            ``exp(g_i)`` and ``exp(-g_j)``, and only the rest as ``exp(g_i - g_j)`` to its result.
    """

    def run(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor, dtype: torch.dtype) -> Any:
        def mul(left: Tensor, right: Tensor) -> Tensor:
            return _Product.apply(left, right, operand, is_reversed)  # type: ignore[no-any-return,no-untyped-call]  # autograd.Function is untyped

        operand = torch.float32 if is_wide else dtype
        tokens = q.shape[2]
        q, k, v, g, beta = (_chunks(x, chunk) for x in (q, k, v, log_decay, beta))
        g = g.cumsum(-2)
        last = g[..., -1:, :]
        aside = g.clamp_min(-_LITTLE) if decays_sides else torch.zeros_like(g)
        between = ((g - aside) - (g - aside).mT).tril().exp()
        rise, fall = aside.exp(), (-aside).exp()
        coupling = (mul(k * rise, (k * fall).mT) * between * beta).tril(-1)
        inverse = _Inverse.apply(coupling, operand, invert)  # type: ignore[no-untyped-call]  # autograd.Function is untyped
        w, u = mul(inverse, k * (beta * g.exp())), mul(inverse, v * beta)
        scores = (mul(q * rise, (k * fall).mT) * between).tril()
        outs = []
        for index in range(q.shape[2]):
            residual = u[:, :, index] - mul(w[:, :, index], state)
            recalled = mul(q[:, :, index], state) * g[:, :, index].exp()
            outs.append(recalled + mul(scores[:, :, index], residual))
            end = last[:, :, index]
            written = mul(k[:, :, index].mT, residual * (end - g[:, :, index]).exp())
            state = end.exp() * state + written
        return torch.cat(outs, 2)[:, :, :tokens], state

    return rule(run)


def _chunks(x: Tensor, chunk: int) -> Tensor:
    """Returns (B, H, T, width) as (B, H, chunks, C, width); the tokens added at the end write nothing."""
    padded = functional.pad(x, (0, 0, 0, -x.shape[2] % chunk))
    return padded.reshape(*x.shape[:2], padded.shape[2] // chunk, chunk, x.shape[3])


def _rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype).float()


class _Product(torch.autograd.Function):
    """A product of rounded operands, whose gradients are products of rounded operands."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, dtype: torch.dtype, is_reversed: bool) -> Tensor:  # noqa: FBT001 - autograd takes its inputs by position
        left, right = _rounded(left, dtype), _rounded(right, dtype)
        ctx.save_for_backward(left, right)
        ctx.dtype, ctx.is_reversed = dtype, is_reversed
        return _summed(left, right, is_reversed=is_reversed)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        left, right = ctx.saved_tensors
        grad = _rounded(grads[0], ctx.dtype)
        return (
            _summed(grad, right.mT, is_reversed=ctx.is_reversed),
            _summed(left.mT, grad, is_reversed=ctx.is_reversed),
            None,
            None,
        )


class _Inverse(torch.autograd.Function):
    """``X = (I + A)^-1`` in float32 for strictly lower triangular A; backwards ``dA = -X^T dX X^T``."""

    @staticmethod
    def forward(ctx: Any, coupling: Tensor, dtype: torch.dtype, invert: Callable[[Tensor], Tensor]) -> Tensor:
        solved = invert(coupling)
        ctx.save_for_backward(solved)
        ctx.dtype = dtype
        return solved

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        transposed = _rounded(ctx.saved_tensors[0], ctx.dtype).mT
        half = transposed @ _rounded(grads[0].tril(-1), ctx.dtype)
        return -(_rounded(half, ctx.dtype) @ transposed).tril(-1), None, None


def _summed(left: Tensor, right: Tensor, *, is_reversed: bool) -> Tensor:
    """Returns ``left @ right``, its terms taken in one order or the other."""
    return left.flip(-1) @ right.flip(-2) if is_reversed else left @ right
