"""Launch settings of the gated delta rule's kernels: a plain function of shape, format and architecture.

No autotuning: the same call always runs the same program. The chunk size is one for the forward and the backward pass,
since the backward pass reads the chunk inverses that the forward pass stored.
"""

from dataclasses import dataclass
from typing import Final

import torch

from optimized.kernels.target import INTERPRETER
from optimized.kernels.tiling import padded_width

__all__ = [
    "CHUNK_SIZES",
    "MAX_WIDTH",
    "DeltaRuleTiling",
    "Tiles",
    "choose_tiling",
    "largest_chunk_size",
]

CHUNK_SIZES: Final = (16, 32, 64)
"""Chunk sizes that the kernels can be built with: powers of two, from the smallest tile of a tensor core."""

MAX_WIDTH: Final = 256
"""Largest width of keys and of values: the state's columns of one program stay in registers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """Settings of one kernel.

    Attributes:
        block_d: query/key channels of a piece.
        block_v: value channels of a tile.
        num_warps: warps of a program; wgmma needs 4 or a multiple.
        num_stages: depth of the load pipeline.
    """

    block_d: int
    block_v: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaRuleTiling:
    """Settings of all kernels of a call.

    Attributes:
        chunk_size: tokens of a chunk.
        solve_precision: ``input_precision`` of the products that join the blocks of the chunk inverse.
        prepare: the kernel that prepares the chunks; it reads no values.
        carry: the two kernels that carry a state or its cotangent.
        gradient: the three kernels that work on every chunk alone in the backward pass.
    """

    chunk_size: int
    solve_precision: str
    prepare: Tiles
    carry: Tiles
    gradient: Tiles


def largest_chunk_size(*, dtype: torch.dtype, head_width: int) -> int:
    """Returns the largest chunk size, also the default: the sums over a chunk's tokens and channels stay in registers.

    Exact float32 products hold whole rows of their operands in registers too, and need the smallest chunk.
    """
    if dtype == torch.float32:
        return 16
    return 64 if head_width <= 128 else 32


def choose_tiling(
    *,
    chunk_size: int,
    head_width: int,
    value_width: int,
    num_states: int,
    num_multiprocessors: int,
    dtype: torch.dtype,
    arch: str,
) -> DeltaRuleTiling:
    """Returns the settings for ``num_states`` states of ``head_width`` by ``value_width`` in the storage ``dtype``.

    The chain of chunks is serial, so a state is cut into columns until every multiprocessor has a program. The chunk
    inverse is joined in float32 products for float32 storage, in three TF32 products (about 2^-22) where the inverse is
    rounded to 16 bits anyway.
    """
    block_d, block_v = padded_width(head_width), padded_width(value_width)
    is_wide_format = dtype == torch.float32
    if arch == INTERPRETER:
        tiles = Tiles(block_d=min(block_d, 64), block_v=min(block_v, 64), num_warps=4, num_stages=1)
        return DeltaRuleTiling(
            chunk_size=chunk_size, solve_precision="ieee", prepare=tiles, carry=tiles, gradient=tiles
        )
    # With 16 columns, the products of 16-bit operands with the state read shared memory out of bounds on Hopper under
    # Triton 3.6 (wrong columns or a fault; compute-sanitizer names the product): 32 are the fewest there.
    fewest = 16 if is_wide_format else 32
    columns = max(fewest, min(block_v, 16 if head_width > 128 else 32 if is_wide_format else 64))
    while columns > fewest and num_states * -(-value_width // columns) < num_multiprocessors:
        columns //= 2
    if is_wide_format:
        return DeltaRuleTiling(
            chunk_size=chunk_size,
            solve_precision="ieee",
            prepare=Tiles(block_d=16, block_v=16, num_warps=8, num_stages=1),
            carry=Tiles(
                block_d=32 if head_width > 128 else 16,
                block_v=columns,
                num_warps=4 if columns == 16 and head_width <= 128 else 8,
                num_stages=1,
            ),
            gradient=Tiles(block_d=min(block_d, 64), block_v=16, num_warps=8, num_stages=1),
        )
    block_d = min(block_d, 64)
    return DeltaRuleTiling(
        chunk_size=chunk_size,
        solve_precision="tf32x3",
        prepare=Tiles(block_d=block_d, block_v=16, num_warps=4, num_stages=2),
        carry=Tiles(block_d=block_d, block_v=columns, num_warps=8, num_stages=2),
        gradient=Tiles(
            block_d=block_d, block_v=min(block_v, 16 if head_width > 128 else 32), num_warps=8, num_stages=1
        ),
    )
