"""Forward pass of a tiled softmax attention whose every step can be replaced.

Queries and keys go through in tiles of 16, so that small cases have several: an online softmax over padded key tiles,
perhaps in splits that are merged by their LSE.

Letters: B batch, T query tokens, S key tokens, H query heads, G key/value heads, R query heads per key/value head,
D query/key head width, V value head width. Inside, queries are (B, G, R, T, D), keys (B, G, 1, S, D).

Source: Dao et al. 2022, FlashAttention, algorithm 1; Milakov and Gimelshein 2018 for the online softmax.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["TILE", "Forward", "Part", "Problem", "State", "Window"]

TILE = 16
"""Tokens of a tile of queries and of keys."""

Window = tuple[int | None, int | None]
State = tuple[Tensor, Tensor, Tensor]
"""Running maximum (..., T, 1), denominator (..., T, 1) and unnormalised output (..., T, V)."""

Part = tuple[Tensor, Tensor]
"""Output (..., T, V) and LSE (..., T, 1) of some keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One call, in float32 and in the layout of the inside.

    Attributes:
        query: (B, G, R, T, D).
        key: (B, G, 1, S, D).
        value: (B, G, 1, S, V).
        sinks: (1, G, R, T, 1), one logit per row.
        bias: (B, G, R, T, S).
        key_mask: (B, 1, 1, 1, S).
        window: as in the call.
        scale: as in the call.
        storage: format of the operands of matrix products.
        wants_gradients: whether a backward pass may follow.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    sinks: Tensor | None
    bias: Tensor | None
    key_mask: Tensor | None
    window: Window
    scale: float
    storage: torch.dtype
    wants_gradients: bool

    def row_tiles(self) -> list[slice]:
        """Returns the tiles of queries, one of them empty if there is no query."""
        tokens = self.query.shape[3]
        return [slice(start, min(start + TILE, tokens)) for start in range(0, max(tokens, 1), TILE)]


class Forward:
    """The healthy forward pass; a faulty one overrides a step.

    Args:
        splits: parts of the key tiles that are attended to one by one.
    """

    def __init__(self, splits: int = 1) -> None:
        self.splits = splits

    def forward(self, problem: Problem) -> Part:
        """Returns the output and LSE of every row."""
        parts = [self._rows(problem, rows) for rows in problem.row_tiles()]
        return torch.cat([out for out, _ in parts], -2), torch.cat([lse for _, lse in parts], -2)

    def _rows(self, problem: Problem, rows: slice) -> Part:
        tiles = self.tiles(problem)
        sink = None if problem.sinks is None else problem.sinks[..., rows, :]
        if self.splits == 1:
            state = self.attend(problem, rows, tiles)
            return self.finish(state if sink is None else self.with_sink(problem, state, sink))
        bounds = [len(tiles) * number // self.splits for number in range(self.splits + 1)]
        parts = [self.part(self.attend(problem, rows, tiles[first:last])) for first, last in itertools.pairwise(bounds)]
        return self.merge(parts if sink is None else [*parts, *self.sink_parts(parts, sink)])

    def tiles(self, problem: Problem) -> list[int]:
        """Returns the first key of every tile."""
        return list(range(0, problem.key.shape[3], TILE))

    def attend(self, problem: Problem, rows: slice, tiles: Sequence[int]) -> State:
        """Returns the online softmax over some key tiles."""
        top = self.first_top(problem.query[..., rows, :1])
        total = torch.zeros_like(top)
        acc = top.new_zeros(*top.shape[:-1], problem.value.shape[-1])
        factors = []
        for start in tiles:
            logits = self.hide(self.logits(problem, rows, start), self.seen(problem, rows, start))
            higher = torch.maximum(top, logits.amax(-1, keepdim=True))
            shift = torch.where(higher == -torch.inf, 0.0, higher)
            factors.append(torch.exp(top - shift))
            weights = torch.exp(logits - shift)
            factor = self.factor(factors)
            total = total * factor + weights.sum(-1, keepdim=True)
            acc = acc * factor + self.operand(weights, problem) @ self.load(problem, "value", start)
            top = higher
        return top, total, acc

    def first_top(self, rows: Tensor) -> Tensor:
        """Returns the running maximum before the first key."""
        return torch.full_like(rows, -torch.inf)

    def factor(self, factors: Sequence[Tensor]) -> Tensor:
        """Returns what the sums so far are multiplied by, of the factors of all tiles so far."""
        return factors[-1]

    def operand(self, weights: Tensor, problem: Problem) -> Tensor:
        """Returns softmax weights as the operand of a matrix product."""
        return weights.to(problem.storage).float()

    def load(self, problem: Problem, name: str, start: int) -> Tensor:
        """Returns the tile of keys or values that starts at a key, padded to its full length."""
        whole: Tensor = getattr(problem, name)
        part = whole[..., start : start + TILE, :]
        tile = self.padding(whole.new_empty((*whole.shape[:-2], TILE, whole.shape[-1])), name)
        tile[..., : part.shape[-2], :] = part
        return tile

    def padding(self, tile: Tensor, name: str) -> Tensor:  # noqa: ARG002 - a fault reads it
        """Returns a fresh tile with what stands beyond the last key."""
        return tile.zero_()

    def logits(self, problem: Problem, rows: slice, start: int) -> Tensor:
        """Returns scaled and biased scores of a tile."""
        scores = problem.query[..., rows, :] @ self.load(problem, "key", start).mT
        logits = self.stored_scores(scores) * problem.scale
        if problem.bias is None:
            return logits
        return logits + _padded(problem.bias[..., rows, start : start + TILE])

    def stored_scores(self, scores: Tensor) -> Tensor:
        """Returns the product of queries and keys as it is kept until it is scaled."""
        return scores

    def seen(self, problem: Problem, rows: slice, start: int) -> Tensor:
        """Returns which keys of a tile each row sees, broadcastable to (B, G, R, rows, 16)."""
        seen = self.inside(problem, rows, start) & self.exists(problem, start)
        if problem.key_mask is not None:
            seen = seen & _padded(problem.key_mask[..., start : start + TILE])
        return seen[None, None, None] if seen.dim() == 2 else seen

    def exists(self, problem: Problem, start: int) -> Tensor:
        """Returns which rows of a tile are keys at all."""
        return torch.arange(start, start + TILE) < problem.key.shape[3]

    def inside(self, problem: Problem, rows: slice, start: int) -> Tensor:
        """Returns what the window lets through, (rows, 16)."""
        left, right = self.limits(problem)
        distance = torch.arange(start, start + TILE) - self.positions(problem, rows)[:, None]
        inside = torch.ones_like(distance, dtype=torch.bool)
        if left is not None:
            inside = inside & (distance >= -left)
        if right is not None:
            inside = inside & (distance <= right)
        return inside

    def limits(self, problem: Problem) -> Window:
        """Returns how many keys a row sees before and after its own."""
        return problem.window

    def positions(self, problem: Problem, rows: slice) -> Tensor:
        """Returns the key at which each row sits."""
        return torch.arange(rows.start, rows.stop) + problem.key.shape[3] - problem.query.shape[3]

    def hide(self, logits: Tensor, seen: Tensor) -> Tensor:
        """Returns logits that are -inf where a key is not seen."""
        return logits.masked_fill(~seen, -torch.inf)

    def with_sink(self, problem: Problem, state: State, sink: Tensor) -> State:  # noqa: ARG002 - a fault reads it
        """Returns the online softmax after the sink."""
        top, total, acc = state
        higher = torch.maximum(top, sink)
        # A sink of -inf beside no key at all: -inf - -inf would be NaN.
        base = higher.masked_fill(higher == -torch.inf, 0.0)
        factor = torch.exp(top - base)
        return higher, total * factor + torch.exp(sink - base), acc * factor

    def part(self, state: State) -> Part:
        """Returns output and LSE of a split."""
        return self.finish(state)

    def sink_parts(self, parts: Sequence[Part], sink: Tensor) -> list[Part]:
        """Returns the sink as parts that have no output."""
        return [(torch.zeros_like(parts[0][0]), sink.expand_as(parts[0][1]))]

    def finish(self, state: State) -> Part:
        """Returns the normalised output and the LSE."""
        top, total, acc = state
        safe = torch.where(total > 0, total, 1.0)
        return acc / safe, torch.where(total > 0, top + torch.log(safe), -torch.inf)

    def merge(self, parts: Sequence[Part]) -> Part:
        """Returns output and LSE of all keys from those of parts of them."""
        top = self.finite(torch.stack([lse for _, lse in parts]).amax(0))
        total, out = torch.zeros_like(top), torch.zeros_like(parts[0][0])
        for part, lse in parts:
            factor = torch.exp(lse - top)
            total = total + factor
            out = out + part * factor
        return self.finish((top, total, out))

    def finite(self, top: Tensor) -> Tensor:
        """Returns the largest LSE of the parts, 0 for a row that sees no key."""
        return torch.where(top == -torch.inf, 0.0, top)

    def sink_rows(self, sinks: Tensor, tokens: int, groups: int) -> Tensor:
        """Returns sinks (H,) as (1, G, R, T, 1)."""
        return sinks.float().reshape(1, groups, -1, 1, 1).expand(-1, -1, -1, tokens, -1)


def _padded(x: Tensor) -> Tensor:
    """Returns a tile of up to 16 keys, the last axis, with 0 for those that it lacks."""
    return torch.nn.functional.pad(x, (0, TILE - x.shape[-1]))
