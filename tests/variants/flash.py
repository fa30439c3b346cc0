"""Legal executions of softmax attention: online softmax over key tiles, backward pass from the stored output and LSE.

They differ in what a recipe leaves free, see ``flash_layout.Execution``. Operands of matrix products are rounded to the
storage format unless an execution says otherwise, sums are float32. Letters and layout as there.

Source: Dao et al. 2022, FlashAttention, algorithms 1 and 4; Milakov and Gimelshein 2018 for the online softmax.
"""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.variants.flash_gradients import gradients
from tests.variants.flash_layout import Execution, Logits, per_row, rows, unrows, visible_keys

__all__ = ["Execution", "make_attention"]


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
        visible = visible_keys(query.shape[1], key.shape[1], window, key_mask)
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
        logits = Logits(query, key, bias, visible, scale, execution)
        values = rows(value, key.shape[2])
        sink = None if sinks is None else per_row(sinks, query, key.shape[2]) * execution.base
        attend = _in_two_passes if execution.is_two_pass else _online
        out, lse = attend(logits, values, sink, execution, query.dtype)
        stored = unrows(out, query.shape[2]).to(query.dtype)
        lse = lse / execution.base
        ctx.save_for_backward(query, key, value, sinks, bias, visible, stored, lse)
        ctx.scale, ctx.execution = scale, execution
        return stored, lse.reshape(query.shape[0], query.shape[2], query.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, sinks, bias, visible, stored, lse = ctx.saved_tensors
        execution: Execution = ctx.execution
        logits = Logits(query, key, bias, visible, ctx.scale, execution, is_turned=execution.turns_channels)
        sink = None if sinks is None else per_row(sinks, query, key.shape[2]) * execution.base
        if execution.recomputes_lse:
            values = rows(value, key.shape[2])
            again = Execution(tile=24, is_base_two=execution.is_base_two)
            lse = _online(logits, values, sink, again, query.dtype)[1] / execution.base
        return gradients(query, key, value, sinks, bias, logits, sink, stored, lse, grads, ctx.scale, execution)


Attended = tuple[Tensor, Tensor]


def _online(
    logits: Logits, values: Tensor, sink: Tensor | None, execution: Execution, storage: torch.dtype
) -> Attended:
    """Returns output (B, G, R T, V) and LSE (B, G, R T, 1) of all keys in one pass, split by split."""
    parts = []
    for number, tiles in enumerate(execution.ranges(logits.key.shape[-2])):
        first = sink if execution.starts_at_sink and number == 0 else None
        parts.append(_attend(logits, values, tiles, first, execution, storage))
    if sink is not None and not execution.starts_at_sink:
        parts.append((torch.zeros_like(parts[0][0]), sink.expand_as(parts[0][1])))
    return parts[0] if len(parts) == 1 else _merged(parts, execution)


def _in_two_passes(
    logits: Logits, values: Tensor, sink: Tensor | None, execution: Execution, storage: torch.dtype
) -> Attended:
    """Returns the same, the weights normalised by the LSE before they meet the values."""
    ranges = list(itertools.chain(*execution.ranges(logits.key.shape[-2])))
    column = logits.query[..., :1]
    top = torch.full_like(column, -torch.inf) if sink is None else sink.expand_as(column)
    for start, stop in ranges:
        top = torch.maximum(top, logits.tile(start, stop).amax(-1, keepdim=True))
    shift = torch.where(top == -torch.inf, 0.0, top)
    total = torch.zeros_like(column) if sink is None else execution.exp(sink - shift)
    for start, stop in ranges:
        total = total + execution.exp(logits.tile(start, stop) - shift).sum(-1, keepdim=True)
    is_seen = total > 0
    lse = shift + execution.log(torch.where(is_seen, total, 1.0))
    acc = values.new_zeros(*column.shape[:-1], values.shape[-1])
    for start, stop in ranges:
        weights = execution.exp(logits.tile(start, stop) - lse)
        acc = acc + execution.as_weights(weights, storage) @ values[..., start:stop, :]
    return acc, torch.where(is_seen, lse, -torch.inf)


def _attend(
    logits: Logits,
    values: Tensor,
    tiles: list[tuple[int, int]],
    sink: Tensor | None,
    execution: Execution,
    storage: torch.dtype,
) -> Attended:
    """Returns the normalised output of some keys and their LSE, -inf if none is seen."""
    column = logits.query[..., :1]
    top = torch.full_like(column, -torch.inf) if sink is None else sink.expand_as(column).clone()
    total = (top > -torch.inf).float()
    acc = values.new_zeros(*column.shape[:-1], values.shape[-1])
    for start, stop in tiles:
        exponents = logits.tile(start, stop)
        higher = torch.maximum(top, exponents.amax(-1, keepdim=True))
        higher = torch.where(higher - top <= execution.lag, top, higher)
        shift = torch.where(higher == -torch.inf, 0.0, higher)
        rescale = execution.exp(top - shift)
        weights = execution.exp(exponents - shift)
        total = total * rescale + weights.sum(-1, keepdim=True)
        acc = acc * rescale + execution.as_weights(weights, storage) @ values[..., start:stop, :]
        top = higher
    is_seen = total > 0
    safe = torch.where(is_seen, total, 1.0)
    return acc / safe, torch.where(is_seen, top + execution.log(safe), -torch.inf)


def _merged(parts: list[Attended], execution: Execution) -> Attended:
    """Returns output and LSE of all keys from those of parts of them."""
    top = torch.stack([lse for _, lse in parts]).amax(0)
    shift = torch.where(top == -torch.inf, 0.0, top)
    factors = [execution.exp(lse - shift) for _, lse in parts]
    total = torch.stack(factors).sum(0)
    safe = torch.where(total > 0, total, 1.0)
    out = sum((part * (factor / safe) for (part, _), factor in zip(parts, factors, strict=True)), torch.zeros(()))
    return out, torch.where(total > 0, shift + execution.log(safe), -torch.inf)
