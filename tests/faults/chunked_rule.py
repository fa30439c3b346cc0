"""The gated delta rule in chunks whose every step can be replaced: what its inner faults are seeded into.

With ``g`` the log decay summed from the chunk's start,

    A_ij = beta_i exp(g_i - g_j) (k_i . k_j),  i > j      X = (I + A)^-1
    W = X diag(beta exp(g)) K    U = X diag(beta) V       R = U - W S
    out = scale (diag(exp(g)) Q S + M R)                  M_ij = exp(g_i - g_j) (q_i . k_j),  i >= j
    S'  = exp(g_C) S + K^T diag(exp(g_C - g)) R

Key channels come in tiles: each has decays of its own, whose gradients are added up, as programs of a grid do it.
Operands of products are rounded to the storage format, sums and states are float32.

Letters: B batch, T tokens, G query/key heads, H value heads, D query/key head width, V value head width, N chunks,
C tokens of a chunk.

Source: Yang et al., arXiv 2412.06464, section 3.3; a legal execution of it is in ``tests.variants.wy``.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from optimized.candidate import Recipe
from optimized.eager.l2_norm import l2_norm
from tests.faults.gradient_paths import Change, passed

__all__ = ["CHUNK", "KEY_TILE", "Chunked", "Part", "product", "tensor_core"]

CHUNK = 16
"""Tokens of a chunk."""

KEY_TILE = 32
"""Key channels of a program."""


def tensor_core(storage: str) -> Recipe:
    """Returns the recipe of ``Chunked``: operands in the storage format, sums in float32."""
    return Recipe(storage=storage, operand=storage, accumulator="float32")


@dataclass(slots=True, kw_only=True)
class Part:
    """A sequence, in float32: queries, keys and values (B, H, N, C, width), decays and rates (B, H, N, C, 1).

    Attributes:
        q: queries.
        k: keys.
        v: values.
        g: log decay, summed from the start of each chunk.
        beta: strengths of the writes.
        tokens: T; the others are padding.
        dtype: storage format.
        is_gated: whether there is a decay.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    g: Tensor
    beta: Tensor
    tokens: int
    dtype: torch.dtype
    is_gated: bool


class Chunked:
    """The healthy rule; a faulty one overrides a step."""

    def gated_delta_rule(
        self,
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
        """Returns ``gated_delta_rule``; the call is that of the operation."""
        (B, T, H, V), (G, D) = value.shape, query.shape[2:]
        q, k = (l2_norm(x.float()) if normalize_qk else x.float() for x in (query, key))
        q, k = (x.repeat_interleave(H // G, 2).transpose(1, 2) for x in (q, k))
        decays = torch.zeros(B, T, H) if log_decay is None else log_decay.float()
        parts = (q, k, value.float().transpose(1, 2), *(x.mT[..., None] for x in (decays, beta.float())))
        offsets = [0, T] if cu_seqlens is None else self.offsets(cu_seqlens.tolist())
        count = B if cu_seqlens is None else len(offsets) - 1
        states = torch.zeros(count, H, D, V) if initial_state is None else initial_state.float()
        begins = [states] if cu_seqlens is None else torch.split(states, 1)
        outs: list[Tensor] = []
        ends: list[Tensor] = []
        for (start, stop), own in zip(itertools.pairwise(offsets), begins, strict=True):
            end = self.begin(own, ends)
            if stop > start:
                sequence = self.part([x[:, :, start:stop] for x in parts], value.dtype, is_gated=log_decay is not None)
                out, end = self.run(sequence, end)
                outs.append(out)
            ends.append(end)
        return (scale * torch.cat(outs, 2).transpose(1, 2)).to(value.dtype), torch.cat(ends)

    def offsets(self, offsets: list[int]) -> list[int]:
        """Returns where packed sequences start, and the end of the last one."""
        return offsets

    def begin(self, own: Tensor, ends: Sequence[Tensor]) -> Tensor:  # noqa: ARG002 - a fault reads it
        """Returns the state that a sequence starts from: its own, whatever others ended with."""
        return own

    def part(self, parts: Sequence[Tensor], dtype: torch.dtype, *, is_gated: bool) -> Part:
        """Returns a sequence in chunks."""
        q, k, v, decay, beta = (_chunks(x) for x in parts)
        g: Tensor = _Summed.apply(decay, self)  # type: ignore[no-untyped-call]  # autograd.Function is untyped
        tokens = parts[0].shape[2]
        g = self.padded_decay(g, tokens)
        return Part(q=q, k=k, v=v, g=g, beta=beta, tokens=tokens, dtype=dtype, is_gated=is_gated)

    def padded_decay(self, g: Tensor, tokens: int) -> Tensor:  # noqa: ARG002 - a fault reads it
        """Returns summed decays whose padding goes on with the last token's."""
        return g

    def reversed_sum(self, grad: Tensor) -> Tensor:
        """Returns the gradient (B, H, N, C, 1) of the decays from that of their sums."""
        return grad.flip(-2).cumsum(-2).flip(-2)

    def run(self, part: Part, state: Tensor) -> tuple[Tensor, Tensor]:
        """Returns results (B, H, T, V) and the last state of sequences that start together."""
        q, k = (torch.split(x, KEY_TILE, -1) for x in (part.q, part.k))
        decays = self.copies(part.g, len(k))
        writes = [self.written_key(part, x) for x in k]
        coupling = _total([product(x, x.mT, part.dtype) * self.between(g) for x, g in zip(writes, decays, strict=True)])
        identity = torch.eye(coupling.shape[-1])
        solved: Tensor = torch.linalg.solve_triangular(
            identity + (coupling * self.write_rate(part)).tril(-1), identity, upper=False, unitriangular=True
        )
        inverse = self.inverse(part, solved)
        w = [product(inverse, x * (self.write_rate(part) * g.exp()), part.dtype)
             for x, g in zip(writes, decays, strict=True)]  # fmt: skip
        u = product(inverse, part.v * part.beta, part.dtype)
        scores = _total([self.scores(part, *each) * self.between(g)
                         for *each, g in zip(q, k, decays, strict=True)])  # fmt: skip
        outs = []
        for index in range(part.q.shape[2]):
            tiles = torch.split(state, KEY_TILE, -2)
            at = [g[:, :, index] for g in decays]
            recalled = _total([product(x[:, :, index], s, part.dtype) for x, s in zip(w, tiles, strict=True)])
            residual = self.residual(part, u[:, :, index], recalled)
            read = _total([product(x[:, :, index], s, part.dtype) * g.exp()
                           for x, s, g in zip(q, tiles, at, strict=True)])  # fmt: skip
            outs.append(read + product(scores[:, :, index], residual, part.dtype))
            is_last = index == part.q.shape[2] - 1
            state = torch.cat([
                self.carried(g[..., -1:, :], s, is_last=is_last)
                + product(x[:, :, index].mT, residual * (g[..., -1:, :] - g).exp(), part.dtype)
                for x, s, g in zip(k, tiles, at, strict=True)
            ], -2)  # fmt: skip
            if not is_last:
                state = self.kept(state)
        return torch.cat(outs, 2)[:, :, : part.tokens], state

    def copies(self, g: Tensor, count: int) -> list[Tensor]:
        """Returns the decays of every tile of key channels."""
        return [g] * count

    def between(self, g: Tensor) -> Tensor:
        """Returns the decays from token j to token i, 0 above the diagonal."""
        return (g - g.mT).tril().exp().tril()

    def written_key(self, part: Part, key: Tensor) -> Tensor:  # noqa: ARG002 - a fault reads it
        """Returns a tile of the keys as the solution of a chunk reads them."""
        return key

    def write_rate(self, part: Part) -> Tensor:
        """Returns the rates by which a chunk corrects what it writes."""
        return part.beta

    def inverse(self, part: Part, solved: Tensor) -> Tensor:  # noqa: ARG002 - a fault reads it
        """Returns the inverse of a chunk's system."""
        return solved

    def scores(self, part: Part, query: Tensor, key: Tensor) -> Tensor:
        """Returns products of queries and keys of a tile, whose operands get their gradients one by one."""
        value = product(query, key.detach().mT, part.dtype)
        other = product(query.detach(), key.mT, part.dtype)
        return value + passed(other - other.detach(), self.score_gradient)

    def score_gradient(self, grad: Tensor) -> Tensor:
        """Returns the gradient of the scores that the keys get theirs from."""
        return grad

    def residual(self, part: Part, written: Tensor, recalled: Tensor) -> Tensor:  # noqa: ARG002 - a fault reads it
        """Returns what is new in a chunk's values."""
        return written - recalled

    def carried(self, end: Tensor, state: Tensor, *, is_last: bool) -> Tensor:
        """Returns what a chunk leaves of the state before it."""
        change = self.end_gradient if is_last else None
        return _Carried.apply(end, state, change)  # type: ignore[no-any-return,no-untyped-call]  # autograd.Function is untyped

    def end_gradient(self, grad: Tensor) -> Tensor:
        """Returns the final state's part of the gradient of the last chunk's decay, (B, H, 1, 1)."""
        return grad

    def kept(self, state: Tensor) -> Tensor:
        """Returns the state as the next chunk reads it."""
        return state


def product(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns a product of operands that are rounded to a dtype, in its backward pass too."""
    return _Product.apply(left, right, dtype)  # type: ignore[no-any-return,no-untyped-call]  # autograd.Function is untyped


def _total(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _chunks(x: Tensor) -> Tensor:
    """Returns (B, H, T, width) as (B, H, N, C, width); the tokens added at the end write nothing."""
    padded = functional.pad(x, (0, 0, 0, -x.shape[2] % CHUNK))
    return torch.unflatten(padded, 2, (-1, CHUNK))


class _Summed(torch.autograd.Function):
    """Decays summed from the start of each chunk."""

    @staticmethod
    def forward(ctx: Any, decay: Tensor, rule: Chunked) -> Tensor:
        ctx.rule = rule
        return decay.cumsum(-2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.rule.reversed_sum(grads[0]), None


class _Carried(torch.autograd.Function):
    """``exp(end) state`` for decays (B, H, 1, 1) and states (B, H, D, V)."""

    @staticmethod
    def forward(ctx: Any, end: Tensor, state: Tensor, change: Change | None) -> Tensor:
        factor = end.exp()
        ctx.save_for_backward(factor, state)
        ctx.change = change
        return factor * state

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        factor, state = ctx.saved_tensors
        end = (grads[0] * (factor * state)).sum((-2, -1), keepdim=True)
        return end if ctx.change is None else ctx.change(end), grads[0] * factor, None


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
        left, right = left.to(dtype).float(), right.to(dtype).float()
        ctx.save_for_backward(left, right)
        ctx.dtype = dtype
        return left @ right

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        left, right = ctx.saved_tensors
        grad = grads[0].to(ctx.dtype).float()
        return grad @ right.mT, left.mT @ grad, None
