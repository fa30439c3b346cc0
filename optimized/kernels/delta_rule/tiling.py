"""Launch settings of the gated delta rule's kernels: a plain function of shape, format and architecture.

No autotuning: the same call always runs the same program. The chunk size is one for the forward and the backward pass,
since the backward pass reads the chunk inverses that the forward pass stored.
"""

from dataclasses import dataclass, replace
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
        hoists: whether offsets of loads stay in registers through a loop.
    """

    block_d: int
    block_v: int
    num_warps: int
    num_stages: int
    hoists: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaRuleTiling:
    """Settings of all kernels of a call.

    Attributes:
        chunk_size: tokens of a chunk.
        solve_precision: ``input_precision`` of the products that join the tiles of the chunk inverse.
        solve: the kernel that inverts; it reads no queries and no values.
        scores: the kernel that multiplies queries with keys.
        carry: the kernel that carries a state and computes outputs.
        carry_again: the same kernel in the backward pass, which stores states.
        carry_cotangent: the kernel that carries the cotangent of a state.
        pairs: the backward kernel of pairs of tokens.
        query_gradient: the kernel of the queries' gradient.
        key_gradient: the kernel of the gradients of keys and gates.
    """

    chunk_size: int
    solve_precision: str
    solve: Tiles
    scores: Tiles
    carry: Tiles
    carry_again: Tiles
    carry_cotangent: Tiles
    pairs: Tiles
    query_gradient: Tiles
    key_gradient: Tiles


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
    is_aligned: bool = True,
) -> DeltaRuleTiling:
    """Returns the settings for ``num_states`` states of ``head_width`` by ``value_width`` in the storage ``dtype``.

    The chain of chunks is serial, so a state is cut into columns: 32 in a 16-bit format, of which the products with
    wgmma keep one warp in each quarter of a multiprocessor waiting for little else. Loads are started two chunks ahead,
    but one where all programs run at once if they go in pairs, which leaves half of the shared memory to each. The
    tiles of a chunk inverse are joined in float32 products for float32 storage, and in three products of bfloat16
    (about 2^-16) where the inverse is rounded to 16 bits anyway.

    Args:
        chunk_size: tokens of a chunk.
        head_width: ``D``.
        value_width: ``V``.
        num_states: heads of all sequences.
        num_multiprocessors: of the GPU.
        dtype: storage format.
        arch: name of the architecture, or of the interpreter.
        is_aligned: whether rows of queries, keys and values can be copied to shared memory 16 bytes at a time.
            Where they cannot, a build with four warps read shared memory out of bounds on an H100 (40 channels, ptxas
            12.8, which is not used any more); such calls have the settings of eight warps from before.
    """
    block_d, block_v = padded_width(head_width), padded_width(value_width)
    if arch == INTERPRETER:
        tiles = Tiles(block_d=min(block_d, 64), block_v=min(block_v, 64), num_warps=4, num_stages=1)
        return _uniform(chunk_size, tiles, tiles, tiles)
    if dtype == torch.float32:
        columns = _columns(
            min(block_v, 16 if head_width > 128 else 32), 16, value_width, num_states, num_multiprocessors
        )
        carry = Tiles(
            block_d=min(block_d, 32),
            block_v=columns,
            num_warps=4 if columns == 16 and head_width <= 128 else 8,
            num_stages=1,
        )
        gradient = Tiles(block_d=min(block_d, 64), block_v=16, num_warps=8, num_stages=1)
        tiling = _uniform(chunk_size, Tiles(block_d=16, block_v=16, num_warps=8, num_stages=1), carry, gradient)
        # Pieces of 16 channels spill where the state is carried, pieces of 32 where its cotangent is.
        return tiling if head_width > 128 else replace(tiling, carry_cotangent=replace(carry, block_d=16))
    # With 16 columns, the products of 16-bit operands with the state read shared memory out of bounds on an H100 under
    # ptxas 12.8 (wrong columns or a fault). They were not run under a later one: 32 are the fewest.
    fewest = 32
    solve = Tiles(block_d=min(block_d, 32), block_v=16, num_warps=1, num_stages=3)
    columns = _columns(min(block_v, 64), fewest, value_width, num_states, num_multiprocessors)
    if head_width > 128 or not is_aligned or head_width % 64 or value_width % 64:
        is_wide = head_width > 128
        carry = Tiles(block_d=min(block_d, 64), block_v=fewest if is_wide else columns, num_warps=8, num_stages=2)
        gradient = Tiles(
            block_d=min(block_d, 64), block_v=min(block_v, 16 if is_wide else 32), num_warps=8, num_stages=1
        )
        scores = Tiles(block_d=min(block_d, 64), block_v=16, num_warps=4, num_stages=2)
        return replace(_uniform(chunk_size, scores, carry, gradient), solve_precision="bf16x3", solve=solve)
    programs = num_states * -(-value_width // fewest)
    are_pairs = num_multiprocessors < programs <= 2 * num_multiprocessors
    gradient_columns = max(fewest, min(block_v, 64))
    return DeltaRuleTiling(
        chunk_size=chunk_size,
        solve_precision="bf16x3",
        solve=solve,
        scores=Tiles(block_d=block_d, block_v=16, num_warps=4, num_stages=1),
        carry=Tiles(block_d=block_d, block_v=fewest, num_warps=4, num_stages=2 if are_pairs else 3, hoists=True),
        carry_again=Tiles(
            block_d=block_d,
            block_v=columns,
            num_warps=4,
            num_stages=3 if columns == fewest else 2,
            hoists=columns == fewest,
        ),
        carry_cotangent=Tiles(block_d=block_d, block_v=fewest, num_warps=4, num_stages=3),
        pairs=Tiles(block_d=block_d, block_v=max(fewest, min(block_v, 128)), num_warps=4, num_stages=1),
        query_gradient=Tiles(block_d=min(block_d, 64), block_v=gradient_columns, num_warps=4, num_stages=1),
        key_gradient=Tiles(block_d=block_d, block_v=gradient_columns, num_warps=8, num_stages=2),
    )


def _uniform(chunk_size: int, prepare: Tiles, carry: Tiles, gradient: Tiles) -> DeltaRuleTiling:
    """Returns settings that kernels of one kind share, without reduced precision."""
    return DeltaRuleTiling(
        chunk_size=chunk_size,
        solve_precision="ieee",
        solve=prepare,
        scores=prepare,
        carry=carry,
        carry_again=carry,
        carry_cotangent=carry,
        pairs=gradient,
        query_gradient=gradient,
        key_gradient=gradient,
    )


def _columns(most: int, fewest: int, value_width: int, num_states: int, num_multiprocessors: int) -> int:
    """Returns columns of a state in a program: so few that every multiprocessor has one, if possible."""
    columns = max(fewest, most)
    while columns > fewest and num_states * -(-value_width // columns) < num_multiprocessors:
        columns //= 2
    return columns
