"""Launches of the L2 norm's kernels, on checked arguments. Letters: C channels, the last axis."""

import torch
import triton

from optimized.kernels.l2_norm import backward_kernel, forward_kernel
from optimized.kernels.precision import allocate_output, finish_output, kernel_input, non_stop_arithmetic
from optimized.kernels.rows import as_rows, index_dtype
from optimized.kernels.target import architecture
from optimized.kernels.tiling import l2_norm_tiles

__all__ = ["launch_backward", "launch_forward"]


def launch_forward(x: torch.Tensor, *, eps: float) -> torch.Tensor:
    """Returns the output of checked arguments."""
    out = allocate_output(x.shape, dtype=x.dtype, device=x.device)
    if not x.numel():
        return finish_output(out, dtype=x.dtype)
    C = x.shape[-1]
    num_rows = x.numel() // C
    tiles = l2_norm_tiles(width=C, arch=architecture(x.device))
    rows = as_rows(kernel_input(x))
    with non_stop_arithmetic():
        forward_kernel[(triton.cdiv(num_rows, tiles.block_rows),)](
            rows,
            out,
            rows.shape[1:3],
            rows.stride(),
            num_rows,
            eps,
            WIDTH=C,
            INDEX=index_dtype(num_rows),
            BLOCK_R=tiles.block_rows,
            BLOCK_C=tiles.block_columns,
            num_warps=tiles.num_warps,
            enable_fp_fusion=True,
        )
    return finish_output(out, dtype=x.dtype)


def launch_backward(x: torch.Tensor, out_gradient: torch.Tensor, *, eps: float) -> torch.Tensor:
    """Returns the gradient of x."""
    gradient = allocate_output(x.shape, dtype=x.dtype, device=x.device)
    if not x.numel():
        return finish_output(gradient, dtype=x.dtype)
    C = x.shape[-1]
    num_rows = x.numel() // C
    tiles = l2_norm_tiles(width=C, arch=architecture(x.device))
    rows, cotangents = as_rows(kernel_input(x)), as_rows(kernel_input(out_gradient))
    with non_stop_arithmetic():
        backward_kernel[(triton.cdiv(num_rows, tiles.block_rows),)](
            rows,
            cotangents,
            gradient,
            rows.shape[1:3],
            rows.stride(),
            cotangents.shape[1:3],
            cotangents.stride(),
            num_rows,
            eps,
            WIDTH=C,
            INDEX=index_dtype(num_rows),
            BLOCK_R=tiles.block_rows,
            BLOCK_C=tiles.block_columns,
            num_warps=tiles.num_warps,
            enable_fp_fusion=True,
        )
    return finish_output(gradient, dtype=x.dtype)
