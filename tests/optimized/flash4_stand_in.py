"""A stand-in for FlashAttention 4 that computes on a CPU, in the format of its inputs, by the algorithm of the kernels.

It has the habits of 4.0.0b36 that the adapter must cope with, as its source shows them: widths that it lacks are an
error; a sink far above all scores gives an infinite logsumexp; the gradient of a sink of ``-inf`` is that of any other
in a row without keys; gradients of packed keys that belong to no sequence are whatever the memory held.
Letters: T query tokens, S key tokens, H query heads, G key/value heads, D query/key head width, V value head width.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from optimized.flash4 import kernels

__all__ = ["HOPPER_WIDTHS", "flash_attn_func", "flash_attn_varlen_func", "install"]

HOPPER_WIDTHS = {(64, 64), (96, 96), (128, 128), (192, 128), (192, 192), (256, 256)}
"""Widths of queries and keys, and of values, that the adapter may ask the kernels for."""

_LARGEST_EXPONENT = 128 * math.log(2)

Window = tuple[int | None, int | None]


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the stand-in where FlashAttention 4 would be, as if on Hopper, and lets float64 through to it."""
    functions = kernels.Kernels(dense=flash_attn_func, packed=flash_attn_varlen_func)
    monkeypatch.setattr(kernels, "load_kernels", lambda: functions)
    monkeypatch.setattr(kernels, "refuse_machine", lambda device: None)  # noqa: ARG005  # its own argument
    monkeypatch.setattr(kernels, "architecture", lambda device: "sm_90")  # noqa: ARG005  # its own argument
    monkeypatch.setattr(kernels, "STORAGE_DTYPES", (torch.float64, torch.bfloat16))
    monkeypatch.setattr(kernels, "SINK_DTYPES", (torch.float64, *kernels.SINK_DTYPES))


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    softmax_scale: float,
    window_size: Window,
    learnable_sink: Tensor | None,
    deterministic: bool,
    return_lse: bool,
) -> tuple[Tensor, Tensor]:
    """Returns ``out`` (B, T, H, V) and ``lse`` (B, H, T)."""
    (B, T), S = q.shape[:2], k.shape[1]
    out, lse = flash_attn_varlen_func(
        *(tensor.flatten(0, 1) for tensor in (q, k, v)),
        cu_seqlens_q=torch.arange(B + 1, dtype=torch.int32) * T,
        cu_seqlens_k=torch.arange(B + 1, dtype=torch.int32) * S,
        max_seqlen_q=T,
        max_seqlen_k=S,
        softmax_scale=softmax_scale,
        window_size=window_size,
        learnable_sink=learnable_sink,
        deterministic=deterministic,
        return_lse=return_lse,
    )
    return out.view(B, T, *out.shape[1:]), lse.view(lse.shape[0], B, T).transpose(0, 1)


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    softmax_scale: float,
    window_size: Window,
    learnable_sink: Tensor | None,
    deterministic: bool,
    return_lse: bool,
) -> tuple[Tensor, Tensor]:
    """Returns ``out`` (tokens, H, V) and ``lse`` (H, tokens)."""
    del deterministic
    widths = (q.shape[-1], v.shape[-1])
    is_grouped = q.shape[1] > k.shape[1]
    assert widths in HOPPER_WIDTHS
    assert widths[0] == widths[1] or not is_grouped
    assert return_lse
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
    assert int(cu_seqlens_q.diff().max()) <= max_seqlen_q
    assert int(cu_seqlens_k.diff().max()) <= max_seqlen_k
    sequences = list(zip(_slices(cu_seqlens_q), _slices(cu_seqlens_k), strict=True))
    arguments = (q, k, v, learnable_sink, sequences, softmax_scale, window_size)
    result: tuple[Tensor, Tensor] = _StandIn.apply(*arguments)  # type: ignore[no-untyped-call]  # torch
    return result


def _slices(offsets: Tensor) -> list[slice]:
    starts = offsets.tolist()
    return [slice(start, end) for start, end in pairwise(starts)]


def _scores(query: Tensor, key: Tensor, scale: float, window: Window) -> Tensor:
    """Returns ``(H, T, S)``, ``-inf`` where hidden."""
    T, S = len(query), len(key)
    distance = torch.arange(S)[None, :] - (torch.arange(T)[:, None] + S - T)
    left, right = window
    hidden = torch.zeros(T, S, dtype=torch.bool)
    if left is not None:
        hidden |= distance < -left
    if right is not None:
        hidden |= distance > right
    return (scale * torch.einsum("thd,shd->hts", query, key)).masked_fill(hidden, -math.inf)


def _attend(scores: Tensor, value: Tensor, sink: Tensor | None) -> tuple[Tensor, Tensor]:
    """Returns ``out`` (T, H, V) and ``lse`` (H, T)."""
    largest = torch.cat((scores, scores.new_full((*scores.shape[:2], 1), -math.inf)), -1).amax(-1)
    is_empty = largest == -math.inf
    shift = largest.masked_fill(is_empty, 0)
    weights = (scores - shift[..., None]).exp()
    total = weights.sum(-1)
    if sink is not None:
        exponent = torch.where(is_empty, 0, sink[:, None] - shift)
        total = total + exponent.exp().masked_fill(exponent > _LARGEST_EXPONENT, math.inf)
        shift = torch.where(is_empty, sink[:, None], shift)
    lse = (shift + total.log()).masked_fill(total == 0, -math.inf)
    return torch.einsum("hts,shv->thv", weights / total.masked_fill(total == 0, 1)[..., None], value), lse


def _per_group(gradient: Tensor, groups: int) -> Tensor:
    """Returns the sums (S, G, width) over the query heads of each group."""
    S, H, width = gradient.shape
    return gradient.view(S, groups, H // groups, width).sum(2)


class _StandIn(torch.autograd.Function):
    """Forward and backward pass of packed sequences, the second from the stored results as the kernels do it."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        sink: Tensor | None,
        sequences: Sequence[tuple[slice, slice]],
        scale: float,
        window: Window,
    ) -> tuple[Tensor, Tensor]:
        (tokens, H, _), G, V = query.shape, key.shape[1], value.shape[2]
        out, lse = query.new_full((tokens, H, V), math.nan), query.new_full((H, tokens), math.nan)
        for rows, columns in sequences:
            keys, values = (tensor[columns].repeat_interleave(H // G, 1) for tensor in (key, value))
            out[rows], lse[:, rows] = _attend(_scores(query[rows], keys, scale, window), values, sink)
        ctx.save_for_backward(query, key, value, sink, out, lse)
        ctx.options = sequences, scale, window
        return out, lse

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, sink, out, lse = ctx.saved_tensors
        sequences, scale, window = ctx.options
        (_, H, _), G = query.shape, key.shape[1]
        of_query, of_key, of_value = (torch.full_like(tensor, math.nan) for tensor in (query, key, value))
        delta = torch.einsum("thv,thv->ht", out, cotangents[0]) - cotangents[1]
        for rows, columns in sequences:
            keys, values = (tensor[columns].repeat_interleave(H // G, 1) for tensor in (key, value))
            shift = lse[:, rows].masked_fill(lse[:, rows] == -math.inf, 0)
            weights = (_scores(query[rows], keys, scale, window) - shift[..., None]).exp()
            of_weights = torch.einsum("thv,shv->hts", cotangents[0][rows], values)
            of_scores = scale * weights * (of_weights - delta[:, rows, None])
            of_query[rows] = torch.einsum("hts,shd->thd", of_scores, keys)
            of_key[columns] = _per_group(torch.einsum("hts,thd->shd", of_scores, query[rows]), G)
            of_value[columns] = _per_group(torch.einsum("hts,thv->shv", weights, cotangents[0][rows]), G)
        of_sink = None
        if sink is not None:
            share = torch.where(lse == -math.inf, 1, (sink[:, None] - lse).exp())
            of_sink = -(share * delta).sum(1)
        return of_query, of_key, of_value, of_sink, None, None, None
