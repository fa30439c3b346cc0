"""Legal executions of the gated delta rule: chunks of several lengths in the WY form, and token by token.

In the WY form, with ``g`` the log decay summed from the chunk's start,

    A_ij = beta_i exp(g_i - g_j) (k_i . k_j),  i > j      X = (I + A)^-1
    W = X diag(beta exp(g)) K    U = X diag(beta) V       R = U - W S
    out = scale (diag(exp(g)) Q S + M R)                  M_ij = exp(g_i - g_j) (q_i . k_j),  i >= j
    S'  = exp(g_C) S + K^T diag(exp(g_C - g)) R

Operands of every product, those of its gradient too, are rounded to the storage format; sums and the carried state are
float32.

Letters: B batch, T tokens, G query/key heads, H value heads, D query/key head width, V value head width, C tokens of a
chunk.

Source: Yang et al., arXiv 2406.06484, section 3, and arXiv 2412.06464, section 3.3.
"""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["make_recurrent", "make_wy"]

_L2_NORM_EPS = 1e-6

Run = Callable[..., tuple[Tensor, Tensor]]
"""Goes through sequences that start together: (q, k, v, log decay, beta, state) to (out, state), all float32."""


def make_wy(*, chunk: int, is_reversed: bool = False) -> Run:
    """Returns ``gated_delta_rule`` in chunks of the WY form.

    Args:
        chunk: tokens of a chunk.
        is_reversed: whether products are summed from the last term to the first.
    """

    def run(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor, dtype: torch.dtype) -> Any:
        def mul(left: Tensor, right: Tensor) -> Tensor:
            return _Product.apply(left, right, dtype, is_reversed)  # type: ignore[no-any-return,no-untyped-call]  # autograd.Function is untyped

        tokens = q.shape[2]
        q, k, v, g, beta = (_chunks(x, chunk) for x in (q, k, v, log_decay, beta))
        g = g.cumsum(-2)
        last = g[..., -1:, :]
        between = (g - g.mT).tril().exp()
        coupling = (mul(k, k.mT) * between * beta).tril(-1)
        inverse = _Inverse.apply(coupling, dtype)  # type: ignore[no-untyped-call]  # autograd.Function is untyped
        w, u = mul(inverse, k * (beta * g.exp())), mul(inverse, v * beta)
        scores = (mul(q, k.mT) * between).tril()
        outs = []
        for index in range(q.shape[2]):
            residual = u[:, :, index] - mul(w[:, :, index], state)
            recalled = mul(q[:, :, index], state) * g[:, :, index].exp()
            outs.append(recalled + mul(scores[:, :, index], residual))
            end = last[:, :, index]
            written = mul(k[:, :, index].mT, residual * (end - g[:, :, index]).exp())
            state = end.exp() * state + written
        return torch.cat(outs, 2)[:, :, :tokens], state

    return _rule(run)


def make_recurrent(*, is_reversed: bool = False) -> Run:
    """Returns ``gated_delta_rule`` token by token in float32.

    Args:
        is_reversed: whether sums over key channels run from the last to the first.
    """

    def run(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor, _: torch.dtype) -> Any:
        if is_reversed:
            q, k, state = q.flip(-1), k.flip(-1), state.flip(-2)
        outs = []
        for token in range(q.shape[2]):
            column, row = k[:, :, token, :, None], q[:, :, token, None]
            state = log_decay[:, :, token, :, None].exp() * state
            error = v[:, :, token, None] - column.mT @ state
            state = state + column * (beta[:, :, token, :, None] * error)
            outs.append(row @ state)
        return torch.cat(outs, 2), state.flip(-2) if is_reversed else state

    return _rule(run)


def _rule(run: Run) -> Run:
    """Returns the operation around an execution: heads repeated, sequences one by one, results stored."""

    def gated_delta_rule(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        log_decay: Tensor | None,
        beta: Tensor,
        *,
        scale: float,
        initial_state: Tensor | None = None,
        normalize_qk: bool = False,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        (B, T, H, V), (G, D) = value.shape, query.shape[2:]
        q, k = (x.float().repeat_interleave(H // G, 2).transpose(1, 2) for x in (query, key))
        if normalize_qk:
            q, k = (x / (x.square().sum(-1, keepdim=True) + _L2_NORM_EPS).sqrt() for x in (q, k))
        decays = torch.zeros(B, T, H) if log_decay is None else log_decay.float()
        v, rates = value.float().transpose(1, 2), beta.float().transpose(1, 2)[..., None]
        parts = (q, k, v, decays.transpose(1, 2)[..., None], rates)
        offsets = [0, T] if cu_seqlens is None else cu_seqlens.tolist()
        count = B if cu_seqlens is None else len(offsets) - 1
        states = torch.zeros(count, H, D, V) if initial_state is None else initial_state.float()
        begins = [states] if cu_seqlens is None else torch.split(states, 1)
        outs, ends = [], []
        for (start, stop), begin in zip(itertools.pairwise(offsets), begins, strict=True):
            end = begin
            if stop > start:
                out, end = run(*(x[:, :, start:stop] for x in parts), begin, value.dtype)
                outs.append(out)
            ends.append(end)
        out = scale * torch.cat(outs, 2).transpose(1, 2)
        return out.to(value.dtype), torch.cat(ends)

    return gated_delta_rule


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
    def forward(ctx: Any, coupling: Tensor, dtype: torch.dtype) -> Tensor:
        identity = torch.eye(coupling.shape[-1])
        solved: Tensor = torch.linalg.solve_triangular(identity + coupling, identity, upper=False, unitriangular=True)
        ctx.save_for_backward(solved)
        ctx.dtype = dtype
        return solved

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        transposed = _rounded(ctx.saved_tensors[0], ctx.dtype).mT
        half = transposed @ _rounded(grads[0].tril(-1), ctx.dtype)
        return -(_rounded(half, ctx.dtype) @ transposed).tril(-1), None


def _summed(left: Tensor, right: Tensor, *, is_reversed: bool) -> Tensor:
    """Returns ``left @ right``, its terms taken in one order or the other."""
    return left.flip(-1) @ right.flip(-2) if is_reversed else left @ right
