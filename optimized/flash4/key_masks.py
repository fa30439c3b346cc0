"""Attention under a key mask: the visible keys of each batch entry become a packed sequence, the hidden ones go.

Leaving keys out moves the others, and the kernels count positions from the last key. That is right

- for every mask where the window hides nothing: then no position counts;
- in every window where keys are hidden at the start only (left padding);
- in a causal window where keys are hidden at the start and at the end (right padding): the queries that stand before
  the end of the visible keys are aligned with it, and those behind see all of them, in a call of their own. The
  gradients of keys and values are then sums of two that were rounded before.

Other masks are refused in windows. Letters: B batch, T query tokens, S key tokens, H query heads, G key/value heads, D
query/key head width, V value head width.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from optimized.eager.checks import Window
from optimized.flash4 import kernels

__all__ = ["VisibleKeys", "binding_window", "masked_attention", "pack_visible_keys", "refuse_key_mask"]

_CAUSAL: Window = (None, 0)
_UNBOUNDED: Window = (None, None)


class VisibleKeys(NamedTuple):
    """Keys and values with the hidden ones at the end of all.

    Attributes:
        key: ``(B S, G, D)``; zero from ``offsets[B]`` on.
        value: ``(B S, G, V)``, likewise.
        offsets: ``(B + 1,)`` int32, where the visible keys of each batch entry start.
    """

    key: Tensor
    value: Tensor
    offsets: Tensor


def binding_window(window: Window, *, queries: int, keys: int) -> Window:
    """Returns the window with None for every bound that hides nothing from any of so many queries and keys."""
    left, right = window
    return (
        None if left is None or left >= keys - 1 else left,
        None if right is None or right >= queries - 1 else right,
    )


def refuse_key_mask(key_mask: Tensor, window: Window) -> str | None:
    """Returns None if leaving out hidden keys is right in this window, else a sentence; reads the mask if there is one.

    Args:
        key_mask: ``(B, S)`` bool.
        window: of ``binding_window``.
    """
    window = (window[0], window[1])
    if window == _UNBOUNDED or _is_visible_to_the_end(key_mask):
        return None
    if window != _CAUSAL:
        return (
            f"key_mask: got hidden keys behind visible ones in the window {window}, expected them at the start only: "
            "FlashAttention 4 leaves hidden keys out and counts positions from the last key"
        )
    if _is_one_run(key_mask):
        return None
    return (
        "key_mask: got hidden keys between visible ones in a causal window, expected them at the start and at the end "
        "only: FlashAttention 4 leaves hidden keys out and counts positions from the last key"
    )


def masked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_mask: Tensor,
    *,
    scale: float,
    window: Window,
    sinks: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Returns ``out`` (B, T, H, V) and ``lse`` (B, H, T) of a call that ``refuse_key_mask`` accepts.

    Only right padding in a causal window waits for the GPU, to learn how many queries stand behind the keys.
    """
    B, T = query.shape[:2]
    visible = pack_visible_keys(key, value, key_mask)
    rows, longest = query.flatten(0, 1), (T, key.shape[1])
    if window == _CAUSAL and not _is_visible_to_the_end(key_mask):
        is_behind = _stands_behind(key_mask, queries=T)
        out, lse = _attend_before_and_behind(rows, visible, is_behind, longest=longest, scale=scale, sinks=sinks)
    else:
        starts = torch.arange(B + 1, dtype=torch.int32, device=query.device) * T
        out, lse = _attend(rows, visible, starts, longest=longest, scale=scale, window=window, sinks=sinks)
    return out.view(B, T, *out.shape[1:]), lse.view(lse.shape[0], B, T).transpose(0, 1)


def pack_visible_keys(key: Tensor, value: Tensor, key_mask: Tensor) -> VisibleKeys:
    """Returns the visible keys and values of all batch entries side by side, without waiting for the GPU.

    Hidden ones are overwritten by zeros, so that neither what they hold nor what the backward kernels leave in the
    memory of their gradients has any influence.

    Args:
        key: ``(B, S, G, D)``.
        value: ``(B, S, G, V)``.
        key_mask: ``(B, S)`` bool.
    """
    is_hidden = key_mask.flatten().logical_not()
    order = is_hidden.to(torch.uint8).argsort(stable=True)
    is_hidden = is_hidden[order][:, None, None]
    return VisibleKeys(
        key=key.flatten(0, 1).index_select(0, order).masked_fill(is_hidden, 0),
        value=value.flatten(0, 1).index_select(0, order).masked_fill(is_hidden, 0),
        offsets=_offsets(key_mask.sum(1)),
    )


def _attend(
    rows: Tensor,
    visible: VisibleKeys,
    starts: Tensor,
    *,
    longest: tuple[int, int],
    scale: float,
    window: Window,
    sinks: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Returns the attention of packed queries ``(tokens, H, D)`` to the visible keys of their batch entry."""
    return kernels.call_packed(
        rows,
        visible.key,
        visible.value,
        cu_seqlens_q=starts,
        cu_seqlens_k=visible.offsets,
        max_seqlen_q=longest[0],
        max_seqlen_k=longest[1],
        scale=scale,
        window=window,
        sinks=sinks,
    )


def _attend_before_and_behind(
    rows: Tensor,
    visible: VisibleKeys,
    is_behind: Tensor,
    *,
    longest: tuple[int, int],
    scale: float,
    sinks: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Returns causal attention where the queries ``is_behind`` (B, T) see all visible keys of their batch entry."""
    is_before = is_behind.logical_not()
    order = is_behind.flatten().to(torch.uint8).argsort(stable=True)
    num_before = int(is_before.sum())
    rows = rows.index_select(0, order)
    parts = [
        _attend(part, visible, _offsets(chosen.sum(1)), longest=longest, scale=scale, window=window, sinks=sinks)
        for part, chosen, window in (
            (rows[:num_before], is_before, _CAUSAL),
            (rows[num_before:], is_behind, _UNBOUNDED),
        )
    ]
    back = order.argsort()
    out, lse = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts], 1)
    return out.index_select(0, back), lse.index_select(1, back)


def _stands_behind(key_mask: Tensor, *, queries: int) -> Tensor:
    """Returns ``(B, T)``: whether a query's position lies behind the last visible key of its batch entry."""
    S = key_mask.shape[1]
    places = torch.arange(1, S + 1, device=key_mask.device)
    ends = (key_mask * places).amax(1, keepdim=True)
    return torch.arange(S - queries, S, device=key_mask.device)[None, :] >= ends


def _is_visible_to_the_end(key_mask: Tensor) -> bool:
    return bool((key_mask[:, :-1] <= key_mask[:, 1:]).all())


def _is_one_run(key_mask: Tensor) -> bool:
    begins = key_mask[:, 1:] & key_mask[:, :-1].logical_not()
    return bool((begins.sum(1) + key_mask[:, :1].sum(1) <= 1).all())


def _offsets(lengths: Tensor) -> Tensor:
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
