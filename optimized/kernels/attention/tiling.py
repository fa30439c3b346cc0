"""Launch settings of the attention kernels: plain functions of shape, format and architecture.

No autotuning: the same call always runs the same program, in the interpreter as on a GPU. The Hopper figures for 16-bit
formats are the largest tiles found without register spills, within 227 KB of shared memory; other architectures get
smaller tiles that were not timed. The interpreter gets small tiles of unequal sides, so that a few dozen tokens already
cross tile edges in both directions.
"""

from dataclasses import dataclass
from typing import Final

import torch

from optimized.kernels.target import INTERPRETER
from optimized.kernels.tiling import padded_width

__all__ = [
    "ROW_TILE",
    "AttentionTiles",
    "bias_gradient_tiles",
    "forward_tiles",
    "key_value_gradient_tiles",
    "query_gradient_tiles",
    "tile_channels",
]

ROW_TILE: Final = 64
"""Query tokens of a program that computes the terms of single rows."""

_HOPPER: Final = "sm_90"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionTiles:
    """Settings of an attention kernel.

    Attributes:
        block_m: query tokens in a tile.
        block_n: key tokens in a tile.
        num_warps: warps of a program; wgmma needs 4 or a multiple.
        num_stages: depth of the load pipeline.
        computes_both: whether one program computes the gradients of key and value, which a wide head has no
            registers for.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    computes_both: bool = True


def forward_tiles(
    *, head_width: int, value_width: int, dtype: torch.dtype, has_extras: bool, arch: str
) -> AttentionTiles:
    """Returns the settings of the forward kernel; ``has_extras`` says whether there is a bias or a key mask."""
    if arch == INTERPRETER:
        return AttentionTiles(block_m=64, block_n=32, num_warps=4, num_stages=1)
    width = _width_class(head_width, value_width)
    if dtype == torch.float32:
        return _full_precision_tiles(is_narrow=width <= (64 if has_extras else 128), is_wide=width > 128)
    if arch != _HOPPER:
        return AttentionTiles(block_m=64, block_n=64 if width <= 128 else 32, num_warps=4, num_stages=2)
    if width <= 64:
        return AttentionTiles(block_m=128, block_n=64 if has_extras else 128, num_warps=8, num_stages=3)
    if width <= 128:
        return AttentionTiles(block_m=128, block_n=64, num_warps=8, num_stages=3)
    return AttentionTiles(block_m=128, block_n=32, num_warps=8, num_stages=2)


def key_value_gradient_tiles(
    *, head_width: int, value_width: int, dtype: torch.dtype, has_extras: bool, arch: str
) -> AttentionTiles:
    """Returns the settings of the kernel for the gradients of key and value; ``has_extras`` as above."""
    width = _width_class(head_width, value_width)
    if arch == INTERPRETER:
        return AttentionTiles(block_m=32, block_n=64, num_warps=4, num_stages=1, computes_both=width <= 128)
    if dtype == torch.float32:
        return _full_precision_tiles(is_narrow=width <= 64, is_wide=width > 128)
    if arch != _HOPPER:
        block_n = 64 if width <= 128 else 32
        return AttentionTiles(block_m=32, block_n=block_n, num_warps=4, num_stages=1, computes_both=width <= 128)
    if width <= 64:
        return AttentionTiles(block_m=32 if has_extras else 64, block_n=128, num_warps=8, num_stages=2)
    if width <= 128:
        return AttentionTiles(block_m=32, block_n=64, num_warps=8, num_stages=2)
    return AttentionTiles(block_m=16, block_n=64, num_warps=8, num_stages=3 if has_extras else 2, computes_both=False)


def query_gradient_tiles(
    *, head_width: int, value_width: int, dtype: torch.dtype, has_extras: bool, arch: str
) -> AttentionTiles:
    """Returns the settings of the kernel for the gradient of query; ``has_extras`` as above."""
    if arch == INTERPRETER:
        return AttentionTiles(block_m=64, block_n=32, num_warps=4, num_stages=1)
    width = _width_class(head_width, value_width)
    if dtype == torch.float32:
        return _full_precision_tiles(is_narrow=width <= 64)
    if arch != _HOPPER:
        return AttentionTiles(block_m=64, block_n=32, num_warps=4, num_stages=1)
    if width <= 128:
        block_n = 32 if has_extras and width > 64 else 64
        return AttentionTiles(block_m=128, block_n=block_n, num_warps=8, num_stages=2)
    return AttentionTiles(block_m=64, block_n=16, num_warps=8, num_stages=2)


def bias_gradient_tiles(*, head_width: int, value_width: int, dtype: torch.dtype, arch: str) -> AttentionTiles:
    """Returns the settings of the kernel for the gradient of the bias."""
    if arch == INTERPRETER:
        return AttentionTiles(block_m=64, block_n=32, num_warps=4, num_stages=1)
    width = _width_class(head_width, value_width)
    if dtype == torch.float32:
        return _full_precision_tiles(is_narrow=False)
    block_n = 64 if width <= 128 else 32
    return AttentionTiles(block_m=64, block_n=block_n, num_warps=4 if width <= 64 else 8, num_stages=1)


def tile_channels(width: int, *, dtype: torch.dtype, arch: str) -> int:
    """Returns the channels of a tile that holds heads of a width.

    With 12 value channels in a tile of 16, an H100 was wrong under ptxas 12.8 and is right with 32. The assembler was
    the cause (``kernels/assembler.py``), not the width; 32 stay the fewest of a 16-bit format, which a GPU has judged.
    """
    is_compiled_narrow = arch != INTERPRETER and dtype != torch.float32
    return max(32 if is_compiled_narrow else 16, padded_width(width))


def _width_class(head_width: int, value_width: int) -> int:
    """Returns the power of two whose tiles both heads get.

    Rows of a width that is no multiple of 8 cannot all start at multiples of 16 bytes. They are loaded number by
    number, need more registers for the addresses, and get the tiles of the next class.
    """
    is_ragged = head_width % 8 != 0 or value_width % 8 != 0
    return max(padded_width(head_width), padded_width(value_width)) * (2 if is_ragged else 1)


def _full_precision_tiles(*, is_narrow: bool, is_wide: bool = False) -> AttentionTiles:
    """Returns tiles for float32, whose exact products run on the ordinary units and hold operands in registers."""
    if is_narrow:
        return AttentionTiles(block_m=32, block_n=32, num_warps=8, num_stages=1)
    return AttentionTiles(block_m=16, block_n=16, num_warps=8 if is_wide else 4, num_stages=1)
