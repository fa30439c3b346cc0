"""One call of attention as the kernels see it, and the launch arguments that all of them have.

Letters: B batch, T query tokens, S key tokens, H query heads, G key/value heads, D query/key width, V value width.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch

from optimized.kernels.attention.packing import Packing, longest, schedule
from optimized.kernels.attention.tiling import AttentionTiles, tile_channels
from optimized.kernels.attention.window import effective_window
from optimized.kernels.precision import kernel_input, kernels_are_interpreted, triton_dtype
from optimized.kernels.target import architecture

__all__ = ["AttentionCall", "constants", "has_aligned_rows", "has_extras", "num_tiles", "settings", "shared_arguments"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionCall:
    """Checked inputs of attention.

    Attributes:
        query: ``(B, T, H, D)``, any strides, like key, value, key_mask and bias.
        key: ``(B, S, G, D)``.
        value: ``(B, S, G, V)``.
        sinks: ``(H,)`` or None.
        key_mask: ``(B, S)`` bool or None.
        bias: of a shape that broadcasts to ``(B, H, T, S)``, or None.
        scale: factor of the logits.
        window: ``(left, right)``.
        packing: sequences of a batch of 1, or None if every batch entry is one sequence.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    sinks: torch.Tensor | None
    key_mask: torch.Tensor | None
    bias: torch.Tensor | None
    scale: float
    window: tuple[int | None, int | None]
    packing: Packing | None


def has_aligned_rows(tensor: torch.Tensor) -> bool:
    """Returns whether the channels of every head lie side by side, from a multiple of 16 bytes on."""
    starts = [tensor.data_ptr(), *(stride * tensor.element_size() for stride in tensor.stride()[:-1])]
    return tensor.stride(-1) == 1 and all(start % 16 == 0 for start in starts)


def settings(call: AttentionCall) -> dict[str, Any]:
    """Returns what the launch settings of every kernel depend on."""
    return {
        "head_width": call.query.shape[3],
        "value_width": call.value.shape[3],
        "dtype": call.query.dtype,
        "arch": architecture(call.query.device),
    }


def has_extras(call: AttentionCall) -> bool:
    """Returns whether there is a bias or a key mask, which take registers from the tiles."""
    return call.bias is not None or call.key_mask is not None


def num_tiles(call: AttentionCall, table: torch.Tensor | None, *, block: int, of_keys: bool) -> int:
    """Returns the number of tiles of one head; ``table`` is the schedule of a packed call."""
    if table is not None:
        return len(table)
    batch, tokens = (call.key if of_keys else call.query).shape[:2]
    return batch * -(-tokens // block)


def shared_arguments(call: AttentionCall, *, block: int, of_keys: bool) -> dict[str, Any]:
    """Returns tensors, strides and numbers that every kernel takes; a program has ``block`` queries or keys."""
    query, key, value = (kernel_input(tensor) for tensor in (call.query, call.key, call.value))
    (B, T, H, _), S = query.shape, key.shape[1]
    mask = call.key_mask
    bias = None if call.bias is None else kernel_input(call.bias).expand(B, H, T, S)
    left, right = _effective_window(call)
    table = None
    if call.packing is not None:
        table = schedule(call.packing, block=block, of_keys=of_keys, device=query.device)
    return {
        "query_pointer": query,
        "key_pointer": key,
        "value_pointer": value,
        "mask_pointer": None if mask is None else mask.view(torch.uint8),
        "bias_pointer": bias,
        "schedule_pointer": table,
        "query_strides": query.stride(),
        "key_strides": key.stride(),
        "value_strides": value.stride(),
        "mask_strides": (0, 0) if mask is None else mask.stride(),
        "bias_strides": (0, 0, 0, 0) if bias is None else bias.stride(),
        "T": T,
        "S": S,
        "H": H,
        "scale_log2": call.scale * math.log2(math.e),
        "left": left or 0,
        "right": right or 0,
    }


def constants(call: AttentionCall, tiles: AttentionTiles, *others: torch.Tensor) -> dict[str, Any]:
    """Returns the compile-time arguments and the options that every kernel takes; ``others`` are loaded by rows too."""
    D, V = call.query.shape[3], call.value.shape[3]
    left, right = _effective_window(call)
    storage: dict[str, Any] = {"dtype": call.query.dtype, "arch": architecture(call.query.device)}
    return {
        "HEADS_PER_KEY": call.query.shape[2] // call.key.shape[2],
        "WIDTH": D,
        "VALUE_WIDTH": V,
        "HAS_LEFT": left is not None,
        "HAS_RIGHT": right is not None,
        "HAS_KEY_MASK": call.key_mask is not None,
        "HAS_BIAS": call.bias is not None,
        "IS_PACKED": call.packing is not None,
        "BLOCK_M": tiles.block_m,
        "BLOCK_N": tiles.block_n,
        "BLOCK_D": tile_channels(D, **storage),
        "BLOCK_V": tile_channels(V, **storage),
        "DTYPE": triton_dtype(call.query.dtype),
        "INTERPRETED": kernels_are_interpreted(),
        "IS_ALIGNED": all(has_aligned_rows(tensor) for tensor in (call.query, call.key, call.value, *others)),
        "num_warps": tiles.num_warps,
        "num_stages": tiles.num_stages,
        # All that a thread can have: left to itself, ptxas spills a few to make room for one more program.
        "maxnreg": 255,
        "enable_fp_fusion": True,
    }


def _effective_window(call: AttentionCall) -> tuple[int | None, int | None]:
    num_queries, num_keys = call.query.shape[1], call.key.shape[1]
    if call.packing is not None:
        num_queries, num_keys = longest(call.packing.query_offsets), longest(call.packing.key_offsets)
    return effective_window(call.window, num_queries=num_queries, num_keys=num_keys)
