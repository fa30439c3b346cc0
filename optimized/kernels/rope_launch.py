"""Launches of the rotary embedding's kernels, on checked arguments.

Letters: B batch, T tokens, H heads, D channels of a head, R rotated channels.
"""

import torch
import triton

from optimized.kernels.precision import allocate_output, finish_output, kernel_input, non_stop_arithmetic
from optimized.kernels.rope import backward_kernel, forward_kernel
from optimized.kernels.rows import index_dtype
from optimized.kernels.target import architecture
from optimized.kernels.tiling import RopeTiles, rope_tiles

__all__ = ["launch_backward", "launch_forward"]


def launch_forward(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, style: str) -> torch.Tensor:
    """Returns the output of checked arguments; the tables say how many channels are turned."""
    out = allocate_output(x.shape, dtype=x.dtype, device=x.device)
    if x.numel():
        B, T, H, D = x.shape
        R = cos.shape[2]
        tiles = rope_tiles(rotated=R, passed=D - R, arch=architecture(x.device))
        heads = min(H, tiles.heads_per_program)
        inputs = [kernel_input(tensor) for tensor in (x, cos, sin)]
        with non_stop_arithmetic():
            forward_kernel[_grid(tiles, tokens=B * T, rotated=R, passed=D - R, groups=triton.cdiv(H, heads))](
                *inputs,
                out,
                *(tensor.stride() for tensor in inputs),
                B * T,
                T,
                H,
                heads,
                ROTATED=R,
                WIDTH=D,
                INTERLEAVED=style == "interleaved",
                INDEX=index_dtype(B * T),
                BLOCK_T=tiles.block_tokens,
                BLOCK_P=tiles.block_pairs,
                num_warps=tiles.num_warps,
                enable_fp_fusion=True,
            )
    return finish_output(out, dtype=x.dtype)


def launch_backward(
    x: torch.Tensor | None, cos: torch.Tensor, sin: torch.Tensor, out_gradient: torch.Tensor, *, style: str
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Returns the gradients of x and, if ``x`` is given, of cos and sin."""
    B, T, H, D = out_gradient.shape
    R, device = cos.shape[2], cos.device
    gradient = allocate_output(out_gradient.shape, dtype=out_gradient.dtype, device=device)
    if x is None or not x.numel():
        of_cos, of_sin = (None, None) if x is None else (torch.zeros_like(cos), torch.zeros_like(sin))
    else:
        of_cos, of_sin = (allocate_output(cos.shape, dtype=table.dtype, device=device) for table in (cos, sin))
    if out_gradient.numel():
        tiles = rope_tiles(rotated=R, passed=D - R, arch=architecture(device))
        heads = min(H, tiles.heads_per_program) if x is None else H
        inputs = [None if tensor is None else kernel_input(tensor) for tensor in (x, cos, sin, out_gradient)]
        with non_stop_arithmetic():
            backward_kernel[_grid(tiles, tokens=B * T, rotated=R, passed=D - R, groups=triton.cdiv(H, heads))](
                *inputs,
                gradient,
                of_cos,
                of_sin,
                *((0, 0, 0, 0) if tensor is None else tensor.stride() for tensor in inputs),
                B * T,
                T,
                H,
                heads,
                ROTATED=R,
                WIDTH=D,
                INTERLEAVED=style == "interleaved",
                HAS_TABLE_GRADIENTS=x is not None,
                INDEX=index_dtype(B * T),
                BLOCK_T=tiles.block_tokens,
                BLOCK_P=tiles.block_pairs,
                num_warps=tiles.num_warps,
                enable_fp_fusion=True,
            )
    return (
        finish_output(gradient, dtype=out_gradient.dtype),
        None if of_cos is None else finish_output(of_cos, dtype=cos.dtype),
        None if of_sin is None else finish_output(of_sin, dtype=sin.dtype),
    )


def _grid(tiles: RopeTiles, *, tokens: int, rotated: int, passed: int, groups: int) -> tuple[int, int, int]:
    """Returns the programs along tokens, channels and groups of heads."""
    blocks = triton.cdiv(max(rotated, passed), 2 * tiles.block_pairs)
    return triton.cdiv(tokens, tiles.block_tokens), blocks, groups
