"""Layout of the attention variants, their logits, and how one of them goes through the keys.

Letters: B batch, T query tokens, S key tokens, H query heads, G key/value heads, R query heads per key/value head,
D query/key head width, V value head width. The query heads of a group are rows of one matrix: (B, G, R T, D).
"""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Execution", "Logits", "like_bias", "per_row", "rows", "unrows", "visible_keys"]

_LOG2_E = math.log2(math.e)
_EVERY = slice(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One way through the keys.

    Attributes:
        tile: keys of a tile.
        is_reversed: whether the last tile comes first.
        splits: parts of the keys that are attended to one by one and merged by their LSE.
        is_base_two: whether scores are scaled by ``log2(e)`` and exponentials are powers of two.
        lag: the running maximum stays while no score exceeds it by more than this.
        starts_at_sink: whether the sink is the first logit of the running maximum, instead of the last.
        is_two_pass: whether the LSE is made in a pass of its own, and the values meet normalised weights.
        keeps_weights: whether the softmax weights stay in float32 before the product with the values.
        is_wide: whether no operand is rounded.
        scales_query: whether the queries are scaled, instead of the scores; exact where the scale is a power of two.
        query_tile: queries of a tile of the backward pass; 0 takes all of them at once.
        reverses_gradients: whether the backward pass takes the tiles in the opposite order.
        sums_delta: whether the backward pass sums ``weights * grad_weights``, instead of ``out * grad_out``.
        recomputes_lse: whether the backward pass makes the LSE anew, over tiles of its own.
        turns_channels: whether the backward pass adds the channels of a score from the last to the first, as another
            tiling of the product may: its error no longer cancels against that of the LSE.
        flushes: whether an exponential below float32's normal numbers is 0, as GPUs have it.
    """

    tile: int = 64
    is_reversed: bool = False
    splits: int = 1
    is_base_two: bool = False
    lag: float = 0.0
    starts_at_sink: bool = False
    is_two_pass: bool = False
    keeps_weights: bool = False
    is_wide: bool = False
    scales_query: bool = False
    query_tile: int = 0
    reverses_gradients: bool = False
    sums_delta: bool = False
    recomputes_lse: bool = False
    turns_channels: bool = False
    flushes: bool = False

    def ranges(self, keys: int) -> list[list[tuple[int, int]]]:
        """Returns the key tiles of each split, in the order in which they are visited; splits may be empty."""
        bounds = [keys * part // self.splits for part in range(self.splits + 1)]
        parts = []
        for start, stop in itertools.pairwise(bounds):
            tiles = [(first, min(first + self.tile, stop)) for first in range(start, stop, self.tile)]
            parts.append(tiles[::-1] if self.is_reversed else tiles)
        return parts[::-1] if self.is_reversed else parts

    def gradient_ranges(self, keys: int) -> list[tuple[int, int]]:
        """Returns the key tiles of the backward pass in their order."""
        tiles = list(itertools.chain(*self.ranges(keys)))
        return tiles[::-1] if self.reverses_gradients else tiles

    @property
    def base(self) -> float:
        """Factor from natural logits to the exponents of this execution."""
        return _LOG2_E if self.is_base_two else 1.0

    def exp(self, exponents: Tensor) -> Tensor:
        """Returns the exponential in the execution's base."""
        value = torch.exp2(exponents) if self.is_base_two else torch.exp(exponents)
        return torch.where(value < torch.finfo(torch.float32).tiny, 0.0, value) if self.flushes else value

    def log(self, total: Tensor) -> Tensor:
        """Returns the logarithm in the execution's base."""
        return torch.log2(total) if self.is_base_two else torch.log(total)

    def as_operand(self, x: Tensor, storage: torch.dtype) -> Tensor:
        """Returns float32 values as an operand in the storage format, in float32 again."""
        return x if self.is_wide else x.to(storage).float()

    def as_weights(self, x: Tensor, storage: torch.dtype) -> Tensor:
        """Returns softmax weights as an operand."""
        return x if self.keeps_weights else self.as_operand(x, storage)


class Logits:
    """Scaled, biased and masked scores of a tile, as exponents in the execution's base."""

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        bias: Tensor | None,
        visible: Tensor | None,
        scale: float,
        execution: Execution,
        *,
        is_turned: bool = False,
    ) -> None:
        groups = key.shape[2]
        self.query, self.key = rows(query, groups), rows(key, groups)
        self._factor, self._base = scale * execution.base, execution.base
        self._left = self.query
        if execution.scales_query:
            self._left, self._factor = execution.as_operand(self.query * self._factor, query.dtype), 1.0
        # A product adds in an order of its own; every other channel first is another one, whatever that is.
        order = torch.arange(query.shape[-1])
        self._order = torch.cat([order[1::2], order[::2]]).flip(0) if is_turned else order
        B, T, H, S = *query.shape[:3], key.shape[1]
        self._bias = None if bias is None else bias.float().expand(B, H, T, S).reshape(B, groups, H // groups * T, S)
        # One copy of the mask per query head of a group.
        self._visible = None if visible is None else visible.repeat(1, 1, H // groups, 1)

    def tile(self, start: int, stop: int, chosen: slice = _EVERY) -> Tensor:
        """Returns the exponents of keys ``start`` to ``stop`` in the chosen rows; hidden ones are -inf."""
        left, right = self._left[..., chosen, self._order], self.key[..., start:stop, self._order]
        exponents = (left @ right.mT) * self._factor
        if self._bias is not None:
            exponents = exponents + self._bias[..., chosen, start:stop] * self._base
        if self._visible is not None:
            exponents = exponents.masked_fill(~self._visible[..., chosen, start:stop], -torch.inf)
        return exponents


def visible_keys(
    tokens: int, keys: int, window: tuple[int | None, int | None], key_mask: Tensor | None
) -> Tensor | None:
    """Returns (B or 1, 1, T, S), or None if every key is visible."""
    left, right = window
    visible = torch.ones(1, 1, tokens, keys, dtype=torch.bool)
    distance = torch.arange(keys) - (torch.arange(tokens)[:, None] + keys - tokens)
    if left is not None:
        visible = visible & (distance >= -left)
    if right is not None:
        visible = visible & (distance <= right)
    if key_mask is not None:
        visible = visible & key_mask[:, None, None, :]
    return None if bool(visible.all()) else visible


def rows(x: Tensor, groups: int) -> Tensor:
    """Returns (B, T, H, D) as float32 (B, G, R T, D)."""
    B, T, H, D = x.shape
    return x.float().reshape(B, T, groups, H // groups, D).permute(0, 2, 3, 1, 4).reshape(B, groups, H // groups * T, D)


def unrows(x: Tensor, heads: int) -> Tensor:
    """Returns (B, G, R T, D) as (B, T, H, D)."""
    B, G, rows, D = x.shape
    return x.reshape(B, heads, G * rows // heads, D).transpose(1, 2)


def per_row(sinks: Tensor, query: Tensor, groups: int) -> Tensor:
    """Returns (H,) as (1, G, R T, 1)."""
    T, H = query.shape[1:3]
    return sinks.float().repeat_interleave(T).reshape(1, groups, H // groups * T, 1)


def like_bias(grad_logits: Tensor, bias: Tensor, tokens: int) -> Tensor:
    """Returns (B, G, R T, keys) summed to the broadcast shape of the bias."""
    B, G, rows_of_group, keys = grad_logits.shape
    full = grad_logits.reshape(B, G * rows_of_group // tokens, tokens, keys)
    return full.sum_to_size(*bias.shape[:3], keys)
