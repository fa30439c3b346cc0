"""Launch settings of the attention and RMSNorm kernels: plain functions of shape, format and architecture.

No autotuning: the same call always runs the same program, in the interpreter as on a GPU. The Hopper figures for 16-bit
formats are the largest tiles found without register spills up to head width 128, within 227 KB of shared memory
(``tests/optimized/test_compiled_kernels.py``); other architectures get smaller tiles that were not examined. The
interpreter gets small tiles of unequal sides, so that a few dozen tokens already cross tile edges in both directions.
"""

from dataclasses import dataclass

import torch

from optimized.kernels.target import INTERPRETER

__all__ = [
    "AttentionTiles",
    "NormTiles",
    "attention_forward_tiles",
    "attention_key_value_gradient_tiles",
    "attention_query_gradient_tiles",
    "padded_width",
    "rms_norm_tiles",
]

_HOPPER = "sm_90"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionTiles:
    """Settings of an attention kernel.

    Attributes:
        block_m: query tokens in a tile.
        block_n: key tokens in a tile.
        num_warps: warps of a program; wgmma needs 4 or a multiple.
        num_stages: depth of the load pipeline.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NormTiles:
    """Settings of a norm kernel.

    Attributes:
        block_rows: rows that a program holds at once.
        num_warps: warps of a program.
        num_programs: largest number of programs of the backward pass, and so of partial weight gradients.
    """

    block_rows: int
    num_warps: int
    num_programs: int


def padded_width(width: int) -> int:
    """Returns the power of two that a tile holds ``width`` channels in; a matrix product needs at least 16."""
    return max(16, 1 << (width - 1).bit_length())


def attention_forward_tiles(*, head_width: int, value_width: int, dtype: torch.dtype, arch: str) -> AttentionTiles:
    """Returns the settings of the forward kernel."""
    if arch == INTERPRETER:
        return AttentionTiles(block_m=64, block_n=32, num_warps=4, num_stages=1)
    width = max(padded_width(head_width), padded_width(value_width))
    if dtype == torch.float32:
        return _full_precision_tiles(width, widest_large_tile=128)
    if arch != _HOPPER:
        return AttentionTiles(block_m=64, block_n=64 if width <= 128 else 32, num_warps=4, num_stages=2)
    if width <= 64:
        return AttentionTiles(block_m=128, block_n=128, num_warps=8, num_stages=3)
    if width <= 128:
        return AttentionTiles(block_m=128, block_n=64, num_warps=8, num_stages=3)
    return AttentionTiles(block_m=128, block_n=32, num_warps=8, num_stages=2)


def attention_key_value_gradient_tiles(
    *, head_width: int, value_width: int, dtype: torch.dtype, arch: str
) -> AttentionTiles:
    """Returns the settings of the kernel for the gradients of key and value."""
    if arch == INTERPRETER:
        return AttentionTiles(block_m=32, block_n=64, num_warps=4, num_stages=1)
    width = max(padded_width(head_width), padded_width(value_width))
    if dtype == torch.float32:
        return _full_precision_tiles(width, widest_large_tile=64)
    if arch != _HOPPER:
        return AttentionTiles(block_m=32, block_n=64 if width <= 128 else 32, num_warps=4, num_stages=1)
    if width <= 64:
        return AttentionTiles(block_m=64, block_n=128, num_warps=8, num_stages=2)
    if width <= 128:
        return AttentionTiles(block_m=32, block_n=64, num_warps=8, num_stages=2)
    return AttentionTiles(block_m=16, block_n=64, num_warps=8, num_stages=2)


def attention_query_gradient_tiles(
    *, head_width: int, value_width: int, dtype: torch.dtype, arch: str
) -> AttentionTiles:
    """Returns the settings of the kernel for the gradient of query."""
    if arch == INTERPRETER:
        return AttentionTiles(block_m=64, block_n=32, num_warps=4, num_stages=1)
    width = max(padded_width(head_width), padded_width(value_width))
    if dtype == torch.float32:
        return _full_precision_tiles(width, widest_large_tile=64)
    if arch != _HOPPER:
        return AttentionTiles(block_m=64, block_n=32, num_warps=4, num_stages=1)
    if width <= 128:
        return AttentionTiles(block_m=128, block_n=64, num_warps=8, num_stages=2)
    return AttentionTiles(block_m=64, block_n=16, num_warps=8, num_stages=2)


def rms_norm_tiles(*, width: int, arch: str) -> NormTiles:
    """Returns the settings of the RMSNorm kernels: about 4096 values a program, 16 values a thread."""
    if arch == INTERPRETER:
        return NormTiles(block_rows=4, num_warps=4, num_programs=3)
    block_rows = max(1, min(64, 4096 // padded_width(width)))
    num_warps = min(16, max(4, padded_width(width) // 512))
    return NormTiles(block_rows=block_rows, num_warps=num_warps, num_programs=4 * 132)


def _full_precision_tiles(width: int, *, widest_large_tile: int) -> AttentionTiles:
    """Returns tiles for float32, whose exact products run on the ordinary units and hold operands in registers."""
    if width <= widest_large_tile:
        return AttentionTiles(block_m=32, block_n=32, num_warps=8, num_stages=1)
    return AttentionTiles(block_m=16, block_n=16, num_warps=4, num_stages=1)
