"""Legal executions of softmax attention: online softmax over key tiles, backward pass from the stored output and LSE.

They differ in what a recipe leaves free: length and order of the key tiles, splits of the keys that are merged by their
LSE, base of the exponential, and how late a running maximum follows the scores. Operands of matrix products are rounded
to the storage format, sums are float32.

Letters: B batch, T query tokens, S key tokens, H query heads, G key/value heads, R query heads per key/value head,
D query/key head width, V value head width. Inside, the query heads of a group are rows of one matrix: (B, G, R T, D).

Source: Dao et al. 2022, FlashAttention, algorithms 1 and 4; Milakov and Gimelshein 2018 for the online softmax.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Execution", "make_attention"]

_LOG2_E = math.log2(math.e)


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
    """

    tile: int = 64
    is_reversed: bool = False
    splits: int = 1
    is_base_two: bool = False
    lag: float = 0.0
    starts_at_sink: bool = False

    def ranges(self, keys: int) -> list[list[tuple[int, int]]]:
        """Returns the key tiles of each split, in the order in which they are visited; splits may be empty."""
        bounds = [keys * part // self.splits for part in range(self.splits + 1)]
        parts = []
        for start, stop in itertools.pairwise(bounds):
            tiles = [(first, min(first + self.tile, stop)) for first in range(start, stop, self.tile)]
            parts.append(tiles[::-1] if self.is_reversed else tiles)
        return parts[::-1] if self.is_reversed else parts

    @property
    def base(self) -> float:
        """Factor from natural logits to the exponents of this execution."""
        return _LOG2_E if self.is_base_two else 1.0

    def exp(self, exponents: Tensor) -> Tensor:
        """Returns the exponential in the execution's base."""
        return torch.exp2(exponents) if self.is_base_two else torch.exp(exponents)


def make_attention(execution: Execution) -> Callable[..., tuple[Tensor, Tensor]]:
    """Returns ``attention`` done in one way; the call is that of the operation."""

    def attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scale: float,
        window: tuple[int | None, int | None] = (None, None),
        sinks: Tensor | None = None,
        key_mask: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        visible = _visible(query.shape[1], key.shape[1], window, key_mask)
        out, lse = _Flash.apply(query, key, value, sinks, bias, visible, scale, execution)  # type: ignore[no-untyped-call]  # autograd.Function is untyped
        return out, lse

    return attention


class _Flash(torch.autograd.Function):
    """The forward pass keeps inputs, stored output and LSE; the backward pass recomputes the weights tile by tile."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        sinks: Tensor | None,
        bias: Tensor | None,
        visible: Tensor | None,
        scale: float,
        execution: Execution,
    ) -> tuple[Tensor, Tensor]:
        groups = key.shape[2]
        logits = _Logits(query, key, bias, visible, scale, execution)
        values = _rows(value, groups)
        sink = None if sinks is None else _per_row(sinks, query, groups) * execution.base
        parts = []
        for number, tiles in enumerate(execution.ranges(key.shape[1])):
            first = sink if execution.starts_at_sink and number == 0 else None
            parts.append(_attend(logits, values, tiles, first, execution, query.dtype))
        if sink is not None and not execution.starts_at_sink:
            parts.append((torch.zeros_like(parts[0][0]), sink.expand_as(parts[0][1])))
        out, lse = parts[0] if len(parts) == 1 else _merged(parts, execution)
        stored = _unrows(out, query.shape[2]).to(query.dtype)
        lse = lse / execution.base
        ctx.save_for_backward(query, key, value, sinks, bias, visible, stored, lse)
        ctx.scale, ctx.execution = scale, execution
        return stored, lse.reshape(query.shape[0], query.shape[2], query.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, sinks, bias, visible, stored, lse = ctx.saved_tensors
        execution: Execution = ctx.execution
        groups, tokens = key.shape[2], query.shape[1]
        logits = _Logits(query, key, bias, visible, ctx.scale, execution)
        values, grad_out = _rows(value, groups), _rows(grads[0], groups)
        delta = (grad_out * _rows(stored, groups)).sum(-1, keepdim=True) - grads[1].reshape(lse.shape)
        known = torch.where(lse == -torch.inf, 0.0, lse) * execution.base
        grad_query = torch.zeros_like(logits.query)
        grad_key, grad_value = torch.zeros_like(logits.key), torch.zeros_like(values)
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        for start, stop in itertools.chain(*execution.ranges(key.shape[1])):
            weights = execution.exp(logits.tile(start, stop) - known)
            grad_value[..., start:stop, :] = _rounded(weights, query.dtype).mT @ grad_out
            grad_logits = weights * (grad_out @ values[..., start:stop, :].mT - delta)
            operand = _rounded(grad_logits, query.dtype)
            grad_query += operand @ logits.key[..., start:stop, :]
            grad_key[..., start:stop, :] = operand.mT @ logits.query
            if grad_bias is not None:
                grad_bias[..., start:stop] += _like_bias(grad_logits, grad_bias, tokens)
        grad_sinks = None
        if sinks is not None:
            pieces = execution.exp(_per_row(sinks, query, groups) * execution.base - known) * delta
            grad_sinks = -pieces.reshape(query.shape[0], query.shape[2], tokens).sum((0, 2)).to(sinks.dtype)
        return (
            (_unrows(grad_query, query.shape[2]) * ctx.scale).to(query.dtype),
            (grad_key.transpose(1, 2) * ctx.scale).to(key.dtype),
            grad_value.transpose(1, 2).to(value.dtype),
            grad_sinks,
            None if bias is None or grad_bias is None else grad_bias.to(bias.dtype),
            None,
            None,
            None,
        )


class _Logits:
    """Scaled, biased and masked scores of a tile, as exponents in the execution's base."""

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        bias: Tensor | None,
        visible: Tensor | None,
        scale: float,
        execution: Execution,
    ) -> None:
        groups = key.shape[2]
        self.query, self.key = _rows(query, groups), _rows(key, groups)
        self._factor, self._base = scale * execution.base, execution.base
        B, T, H, S = *query.shape[:3], key.shape[1]
        self._bias = None if bias is None else bias.float().expand(B, H, T, S).reshape(B, groups, H // groups * T, S)
        # One copy of the mask per query head of a group.
        self._visible = None if visible is None else visible.repeat(1, 1, H // groups, 1)

    def tile(self, start: int, stop: int) -> Tensor:
        """Returns the exponents of keys ``start`` to ``stop``; hidden ones are -inf."""
        exponents = (self.query @ self.key[..., start:stop, :].mT) * self._factor
        if self._bias is not None:
            exponents = exponents + self._bias[..., start:stop] * self._base
        if self._visible is not None:
            exponents = exponents.masked_fill(~self._visible[..., start:stop], -torch.inf)
        return exponents


def _attend(
    logits: _Logits,
    values: Tensor,
    tiles: list[tuple[int, int]],
    sink: Tensor | None,
    execution: Execution,
    storage: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Returns the normalised output (B, G, R T, V) of some keys and their LSE (B, G, R T, 1), -inf if none is seen."""
    rows = logits.query[..., :1]
    top = torch.full_like(rows, -torch.inf) if sink is None else sink.expand_as(rows).clone()
    total = (top > -torch.inf).float()
    acc = values.new_zeros(*rows.shape[:-1], values.shape[-1])
    for start, stop in tiles:
        exponents = logits.tile(start, stop)
        higher = torch.maximum(top, exponents.amax(-1, keepdim=True))
        higher = torch.where(higher - top <= execution.lag, top, higher)
        shift = torch.where(higher == -torch.inf, 0.0, higher)
        rescale = execution.exp(top - shift)
        weights = execution.exp(exponents - shift)
        total = total * rescale + weights.sum(-1, keepdim=True)
        acc = acc * rescale + _rounded(weights, storage) @ values[..., start:stop, :]
        top = higher
    is_seen = total > 0
    safe = torch.where(is_seen, total, 1.0)
    log = torch.log2(safe) if execution.is_base_two else torch.log(safe)
    return acc / safe, torch.where(is_seen, top + log, -torch.inf)


def _merged(parts: list[tuple[Tensor, Tensor]], execution: Execution) -> tuple[Tensor, Tensor]:
    """Returns output and LSE of all keys from those of parts of them."""
    top = torch.stack([lse for _, lse in parts]).amax(0)
    shift = torch.where(top == -torch.inf, 0.0, top)
    factors = [execution.exp(lse - shift) for _, lse in parts]
    total = torch.stack(factors).sum(0)
    safe = torch.where(total > 0, total, 1.0)
    out = sum((part * (factor / safe) for (part, _), factor in zip(parts, factors, strict=True)), torch.zeros(()))
    log = torch.log2(safe) if execution.is_base_two else torch.log(safe)
    return out, torch.where(total > 0, shift + log, -torch.inf)


def _visible(tokens: int, keys: int, window: tuple[int | None, int | None], key_mask: Tensor | None) -> Tensor | None:
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


def _rows(x: Tensor, groups: int) -> Tensor:
    """Returns (B, T, H, D) as float32 (B, G, R T, D)."""
    B, T, H, D = x.shape
    return x.float().reshape(B, T, groups, H // groups, D).permute(0, 2, 3, 1, 4).reshape(B, groups, H // groups * T, D)


def _unrows(x: Tensor, heads: int) -> Tensor:
    """Returns (B, G, R T, D) as (B, T, H, D)."""
    B, G, rows, D = x.shape
    return x.reshape(B, heads, G * rows // heads, D).transpose(1, 2)


def _per_row(sinks: Tensor, query: Tensor, groups: int) -> Tensor:
    """Returns (H,) as (1, G, R T, 1)."""
    T, H = query.shape[1:3]
    return sinks.float().repeat_interleave(T).reshape(1, groups, H // groups * T, 1)


def _like_bias(grad_logits: Tensor, grad_bias: Tensor, tokens: int) -> Tensor:
    """Returns (B, G, R T, keys) summed to the broadcast shape of the bias."""
    B, G, rows, keys = grad_logits.shape
    full = grad_logits.reshape(B, G * rows // tokens, tokens, keys)
    return full.sum_to_size(*grad_bias.shape[:3], keys)


def _rounded(x: Tensor, storage: torch.dtype) -> Tensor:
    """Returns float32 values as an operand in the storage format, in float32 again."""
    return x.to(storage).float()
