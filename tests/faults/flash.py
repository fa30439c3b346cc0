"""Tiled softmax attention whose every step can be replaced: what the inner faults of attention are seeded into.

The backward pass recomputes the weights tile by tile from the LSE that the forward pass stored. A fault is a subclass
of ``Flash`` that overrides one step; where that step makes no difference, it gives the bits of its healthy twin.

Letters: B batch, T query tokens, S key tokens, H query heads, G key/value heads, R query heads per key/value head,
D query/key head width, V value head width. Inside, queries are (B, G, R, T, D), keys (B, G, 1, S, D).

Source: Dao et al. 2022, FlashAttention, algorithm 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optimized.candidate import Recipe
from tests.faults.flash_forward import TILE, Forward, Part, Problem, Window

__all__ = ["VALUE_TILE", "Flash", "Gradients", "by_value_tile", "tensor_core"]

VALUE_TILE = 32
"""Channels of a tile of values in the backward pass."""


def tensor_core(storage: str) -> Recipe:
    """Returns the recipe of ``Flash``: operands in the storage format, sums in float32."""
    return Recipe(storage=storage, operand=storage, accumulator="float32")


@dataclass(slots=True, kw_only=True)
class Gradients:
    """Gradients in the layout of the inside; that of the sinks is (B, G, R, T, 1), one term per row."""

    query: Tensor
    key: Tensor
    value: Tensor
    sinks: Tensor | None
    bias: Tensor | None


class Flash(Forward):
    """The healthy attention; a faulty one overrides a step."""

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scale: float,
        window: Window = (None, None),
        sinks: Tensor | None = None,
        key_mask: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns ``attention``; the call is that of the operation."""
        out, lse = _Function.apply(query, key, value, sinks, bias, key_mask, window, scale, self)  # type: ignore[no-untyped-call]  # autograd.Function is untyped
        return out, lse

    def backward(self, problem: Problem, stored: Part, grad_out: Tensor, grad_lse: Tensor) -> Gradients:
        """Returns the gradients from the stored output and LSE."""
        out, lse = stored
        delta = self.row_sums(self.delta(problem, grad_out, out), grad_lse)
        known = torch.where(lse == -torch.inf, 0.0, lse)
        result = Gradients(
            query=self.buffer(problem.query, "query"),
            key=self.buffer(problem.key, "key"),
            value=self.buffer(problem.value, "value"),
            sinks=None if problem.sinks is None else self.sink_terms(torch.exp(problem.sinks - known), delta, grad_lse),
            bias=None if problem.bias is None else torch.zeros_like(problem.bias),
        )
        for start in self.visited(self.tiles(problem)):
            self._key_tile(problem, start, (out, known, grad_out, delta), result)
        result.query, result.key = self.stored_query(result.query), self.stored_key(result.key)
        return result

    def _key_tile(
        self, problem: Problem, start: int, rows_of: tuple[Tensor, Tensor, Tensor, Tensor], result: Gradients
    ) -> None:  # fmt: skip
        """Adds what the keys of one tile give to the gradients."""
        out, known, grad_out, delta = rows_of
        key, value = self.load(problem, "key", start), self.load(problem, "value", start)
        keys = min(TILE, problem.key.shape[3] - start)
        grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
        is_visited = False
        for number, rows in enumerate(problem.row_tiles()):
            seen = self.seen_again(problem, rows, start)
            if not bool(seen.any()):
                continue
            is_visited = True
            first = self.statistics(number) * TILE
            again = slice(first, first + rows.stop - rows.start)
            pulled = grad_out[..., rows, :]
            weights = torch.exp(self.hide(self.logits(problem, rows, start), seen) - known[..., again, :])
            grad_value += (self.operand(weights, problem).mT @ pulled).sum(2, keepdim=True)
            grad_logits = weights * self.grad_weights(pulled, value, out[..., rows, :], delta[..., again, :])
            operand = grad_logits.to(problem.storage).float()
            result.query[..., rows, :] += (operand @ key) * problem.scale
            grad_key += (operand.mT @ problem.query[..., rows, :]).sum(2, keepdim=True)
            if result.bias is not None:
                result.bias[..., rows, start : start + keys] += grad_logits[..., :keys]
        if is_visited:
            result.key[..., start : start + keys, :] = grad_key[..., :keys, :] * problem.scale
            result.value[..., start : start + keys, :] = grad_value[..., :keys, :]

    def delta(self, problem: Problem, grad_out: Tensor, out: Tensor) -> Tensor:  # noqa: ARG002 - a fault reads it
        """Returns the row sums of ``grad_out * out``."""
        return (grad_out * out).sum(-1, keepdim=True)

    def row_sums(self, delta: Tensor, grad_lse: Tensor) -> Tensor:
        """Returns the row sums less the gradient of the LSE."""
        return delta - grad_lse

    def buffer(self, like: Tensor, name: str) -> Tensor:  # noqa: ARG002 - a fault reads it
        """Returns the memory that a gradient is written or added to."""
        return torch.zeros_like(like)

    def visited(self, tiles: Sequence[int]) -> Sequence[int]:
        """Returns the key tiles of the backward pass in their order."""
        return tiles

    def seen_again(self, problem: Problem, rows: slice, start: int) -> Tensor:
        """Returns ``seen`` for the backward pass."""
        return self.seen(problem, rows, start)

    def statistics(self, number: int) -> int:
        """Returns the tile of queries whose LSE and row sums a tile of queries takes."""
        return number

    def grad_weights(self, grad_out: Tensor, value: Tensor, out: Tensor, delta: Tensor) -> Tensor:  # noqa: ARG002 - a fault reads it
        """Returns the gradient of the weights less the row sum, from tiles of the value channels."""
        return sum(by_value_tile(grad_out, value), torch.zeros(())) - delta

    def sink_terms(self, weights: Tensor, delta: Tensor, grad_lse: Tensor) -> Tensor:  # noqa: ARG002 - a fault reads it
        """Returns what each row gives to the gradient of its sink."""
        return -(weights * delta)

    def stored_query(self, grad: Tensor) -> Tensor:
        """Returns the gradient of the queries as it is read back from its accumulator."""
        return grad

    def stored_key(self, grad: Tensor) -> Tensor:
        """Returns the gradient of the keys as it is read back from its tiles."""
        return grad


def by_value_tile(grad_out: Tensor, value: Tensor) -> list[Tensor]:
    """Returns ``grad_out @ value.T`` of each tile of channels."""
    pairs = zip(torch.split(grad_out, VALUE_TILE, -1), torch.split(value, VALUE_TILE, -1), strict=True)
    return [left @ right.mT for left, right in pairs]


class _Function(torch.autograd.Function):
    """Between the layout of a call and that of the inside; what is stored is in the storage format."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        sinks: Tensor | None,
        bias: Tensor | None,
        key_mask: Tensor | None,
        window: Window,
        scale: float,
        flash: Flash,
    ) -> tuple[Tensor, Tensor]:
        B, T, H, _ = query.shape
        S, G = key.shape[1:3]
        problem = Problem(
            query=_inside(query, G), key=_inside(key, G), value=_inside(value, G),
            sinks=None if sinks is None else flash.sink_rows(sinks, T, G),
            bias=None if bias is None else bias.float().expand(B, H, T, S).reshape(B, G, H // G, T, S),
            key_mask=None if key_mask is None else key_mask[:, None, None, None, :],
            window=window, scale=scale, storage=query.dtype, wants_gradients=any(ctx.needs_input_grad),
        )  # fmt: skip
        out, lse = flash.forward(problem)
        stored = _outside(out).to(query.dtype)
        ctx.save_for_backward(sinks, bias, stored, lse)
        ctx.problem, ctx.flash = problem, flash
        return stored, lse.reshape(B, H, T)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        sinks, bias, stored, lse = ctx.saved_tensors
        problem: Problem = ctx.problem
        B, G, R, T, _ = problem.query.shape
        out = _inside(stored, G)
        each = ctx.flash.backward(problem, (out, lse), _inside(grads[0], G), grads[1].reshape(lse.shape))
        S, dtype = problem.key.shape[3], stored.dtype
        return (
            _outside(each.query).to(dtype),
            _outside(each.key).to(dtype),
            _outside(each.value).to(dtype),
            None if sinks is None else each.sinks.sum((0, 3, 4)).reshape(-1).to(sinks.dtype),
            None if bias is None else each.bias.reshape(B, G * R, T, S).sum_to_size(bias.shape).to(bias.dtype),
            None,
            None,
            None,
            None,
        )


def _inside(x: Tensor, groups: int) -> Tensor:
    """Returns (B, T, H, D) as float32 (B, G, R, T, D)."""
    return torch.unflatten(x.float(), 2, (groups, -1)).permute(0, 2, 3, 1, 4)


def _outside(x: Tensor) -> Tensor:
    """Returns (B, G, R, T, D) as (B, T, H, D)."""
    return x.permute(0, 3, 1, 2, 4).flatten(2, 3)
