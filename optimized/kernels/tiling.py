"""Launch settings of the row kernels: plain functions of shape, format and architecture.

No autotuning: the same call always runs the same program, in the interpreter as on a GPU. The interpreter gets small
tiles of unequal sides, so that a few dozen tokens already cross tile edges in both directions.
"""

from dataclasses import dataclass

import torch

from optimized.kernels.target import INTERPRETER

__all__ = [
    "RopeTiles",
    "RowTiles",
    "ShortConvTiles",
    "elementwise_tiles",
    "l2_norm_tiles",
    "padded_width",
    "rms_norm_tiles",
    "rope_tiles",
    "short_conv_tiles",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortConvTiles:
    """Settings of the short convolution's kernels.

    Attributes:
        segment: tokens that a thread walks along.
        block_rows: segments in a program.
        block_channels: channels in a program.
        num_warps: warps of a program.
    """

    segment: int
    block_rows: int
    block_channels: int
    num_warps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RowTiles:
    """Settings of a kernel that goes over rows and columns.

    Attributes:
        block_rows: rows of a tile.
        block_columns: columns of a tile, a power of two.
        num_warps: warps of a program.
        num_programs: largest number of programs of a pass that leaves one partial sum a program.
        num_stages: depth of the load pipeline of such a pass.
    """

    block_rows: int
    block_columns: int
    num_warps: int
    num_programs: int
    num_stages: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeTiles:
    """Settings of a rotation.

    Attributes:
        block_tokens: tokens of a tile.
        block_pairs: pairs of channels of a tile, a power of two.
        heads_per_program: heads that one program turns by the angles that it loaded.
        num_warps: warps of a program.
    """

    block_tokens: int
    block_pairs: int
    heads_per_program: int
    num_warps: int


def padded_width(width: int) -> int:
    """Returns the power of two that a tile holds ``width`` channels in; a matrix product needs at least 16."""
    return max(16, 1 << (width - 1).bit_length())


def rms_norm_tiles(*, width: int, is_gated: bool, dtype: torch.dtype, arch: str) -> RowTiles:
    """Returns the settings of the RMSNorm kernels: 8 to 16 values a thread.

    A row wider than 8192, or 4096 with a gate, does not fit into the registers and is read twice. The backward pass has
    up to two further blocks of rows on their way, in at most 200 KB of shared memory.
    """
    if arch == INTERPRETER:
        return RowTiles(block_rows=16, block_columns=min(64, padded_width(width)), num_warps=4, num_programs=3)
    if width > (4096 if is_gated else 8192):
        return RowTiles(block_rows=4, block_columns=1024, num_warps=8, num_programs=4 * 132)
    columns = padded_width(width)
    block_rows = max(1, min(64, (1024 if is_gated else 2048) // columns))
    stage_bytes = block_rows * columns * dtype.itemsize * (3 if is_gated else 2)
    return RowTiles(
        block_rows=block_rows,
        block_columns=columns,
        num_warps=min(16, max(4, columns // 512)),
        num_programs=(8 if columns <= 1024 else 4) * 132,
        num_stages=3 if stage_bytes <= 48 * 1024 else 2,
    )


def short_conv_tiles(*, taps: int, is_backward: bool, dtype: torch.dtype, arch: str) -> ShortConvTiles:
    """Returns the settings of the short convolution: a segment a warp, 4 or 8 bytes of adjacent channels a thread.

    The backward pass and more taps leave registers for two channels only, and more taps for half of the steps. The
    forward pass of a 16-bit format has small programs, of which the last ones leave few multiprocessors idle.
    """
    if arch == INTERPRETER:
        return ShortConvTiles(segment=8, block_rows=4, block_channels=32, num_warps=4)
    channels = 64 if is_backward or taps > 4 else 256 // dtype.itemsize
    if channels == 128:
        return ShortConvTiles(segment=8, block_rows=4, block_channels=channels, num_warps=4)
    return ShortConvTiles(segment=16 if taps <= 4 else 8, block_rows=8, block_channels=channels, num_warps=8)


def l2_norm_tiles(*, width: int, arch: str) -> RowTiles:
    """Returns the settings of the L2 norm's kernels; a row wider than a tile is read twice, then from cache."""
    if arch == INTERPRETER:
        columns = min(64 if width <= 1024 else 4096, padded_width(width))
        return RowTiles(block_rows=8, block_columns=columns, num_warps=4, num_programs=3)
    columns = min(8192, padded_width(width))
    return RowTiles(
        block_rows=max(1, min(64, 4096 // columns)),
        block_columns=columns,
        num_warps=min(16, max(4, columns // 512)),
        num_programs=4 * 132,
    )


def elementwise_tiles(*, width: int, arch: str) -> RowTiles:
    """Returns the settings of a kernel that computes every element by itself: 16 values a thread."""
    values = 512 if arch == INTERPRETER else 2048
    columns = min(values, padded_width(width))
    programs = 3 if arch == INTERPRETER else 4 * 132
    return RowTiles(block_rows=values // columns, block_columns=columns, num_warps=4, num_programs=programs)


def rope_tiles(*, rotated: int, passed: int, arch: str) -> RopeTiles:
    """Returns the settings for heads of ``rotated`` channels and ``passed`` ones that are only copied."""
    pairs = max(rotated, passed, 2) // 2
    if arch == INTERPRETER:
        return RopeTiles(block_tokens=16, block_pairs=min(32, padded_width(pairs)), heads_per_program=3, num_warps=4)
    block_pairs = min(128, padded_width(pairs))
    return RopeTiles(block_tokens=1024 // block_pairs, block_pairs=block_pairs, heads_per_program=8, num_warps=4)
