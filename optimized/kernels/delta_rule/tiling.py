"""Launch settings of the gated delta rule's kernels: a plain function of shape, format and architecture.

No autotuning: the same call always runs the same program. The chunk size is one for the forward and the backward pass,
since the backward pass reads the chunk inverses that the forward pass stored.
"""

from dataclasses import dataclass
from typing import Final

import torch

from optimized.kernels.precision import kernels_are_interpreted
from optimized.kernels.tiling import padded_width

__all__ = ["CHUNK_SIZES", "MAX_WIDTH", "DeltaRuleTiling", "choose_tiling", "default_chunk_size"]

CHUNK_SIZES: Final = (16, 32, 64)
"""Chunk sizes that the kernels can be built with: powers of two, from the smallest tile of a tensor core."""

MAX_WIDTH: Final = 128
"""Largest width of keys and of values: the state's columns of one program stay in registers."""

_HOPPER_MULTIPROCESSORS: Final = 132


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaRuleTiling:
    """Settings of the five kernels.

    Attributes:
        chunk_size: tokens of a chunk.
        block_d: query/key width, padded to a power of two.
        block_state: value channels of a program that carries the state from chunk to chunk.
        block_gradient: value channels that the gradient kernel holds at a time.
        solve_precision: ``input_precision`` of the products that join the blocks of the chunk inverse.
        prepare_warps: warps of the kernel that inverts the chunks.
        state_warps: warps of the two kernels that carry a state.
        gradient_warps: warps of the gradient kernel.
        state_stages: depth of the load pipeline of the kernels that carry a state.
    """

    chunk_size: int
    block_d: int
    block_state: int
    block_gradient: int
    solve_precision: str
    prepare_warps: int
    state_warps: int
    gradient_warps: int
    state_stages: int


def default_chunk_size(dtype: torch.dtype) -> int:
    """Returns the default chunk size: on a GPU, float32 products of 64 tokens would not fit the registers."""
    return 32 if dtype == torch.float32 and not kernels_are_interpreted() else 64


def choose_tiling(
    *, chunk_size: int, head_width: int, value_width: int, num_states: int, dtype: torch.dtype
) -> DeltaRuleTiling:
    """Returns the settings for ``num_states`` states of ``head_width`` by ``value_width`` in the storage ``dtype``.

    The chain of chunks is serial, so a state is cut into columns until every multiprocessor has a program. The chunk
    inverse is joined in float32 products for float32 storage, in three TF32 products (about 2^-22) where the inverse is
    rounded to 16 bits anyway.
    """
    block_d, block_v = padded_width(head_width), padded_width(value_width)
    if kernels_are_interpreted():
        return _interpreter_tiling(chunk_size=chunk_size, block_d=block_d, block_v=block_v)
    is_wide_format = dtype == torch.float32
    block_state = min(block_v, 32 if is_wide_format else 64)
    while block_state > 16 and num_states * (block_v // block_state) < _HOPPER_MULTIPROCESSORS:
        block_state //= 2
    return DeltaRuleTiling(
        chunk_size=chunk_size,
        block_d=block_d,
        block_state=block_state,
        block_gradient=min(block_v, 16 if is_wide_format else 32),
        solve_precision="ieee" if is_wide_format else "tf32x3",
        prepare_warps=8 if is_wide_format else 4,
        state_warps=8 if is_wide_format else 4,
        gradient_warps=8,
        state_stages=1 if is_wide_format else 2,
    )


def _interpreter_tiling(*, chunk_size: int, block_d: int, block_v: int) -> DeltaRuleTiling:
    """Returns settings with few programs: the interpreter's time is their number, whatever they hold."""
    return DeltaRuleTiling(
        chunk_size=chunk_size,
        block_d=block_d,
        block_state=min(block_v, 64),
        block_gradient=min(block_v, 64),
        solve_precision="ieee",
        prepare_warps=4,
        state_warps=4,
        gradient_warps=4,
        state_stages=1,
    )
