"""Launches of the SiLU gate's kernels, on checked arguments."""

import torch
import triton

from optimized.kernels.precision import allocate_output, finish_output, kernel_input, non_stop_arithmetic
from optimized.kernels.rows import elementwise_rows, index_dtype
from optimized.kernels.silu_mul import backward_kernel, forward_kernel
from optimized.kernels.target import architecture
from optimized.kernels.tiling import elementwise_tiles

__all__ = ["launch_backward", "launch_forward"]


def launch_forward(gate: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Returns the output of checked arguments."""
    out = allocate_output(x.shape, dtype=x.dtype, device=x.device)
    if x.numel():
        gates, rows = elementwise_rows(kernel_input(gate), kernel_input(x))
        width = rows.shape[-1]
        num_rows = x.numel() // width
        tiles = elementwise_tiles(width=width, arch=architecture(x.device))
        num_programs = triton.cdiv(num_rows, tiles.block_rows) * triton.cdiv(width, tiles.block_columns)
        with non_stop_arithmetic():
            forward_kernel[(num_programs,)](
                gates,
                rows,
                out,
                gates.shape[1:3],
                gates.stride(),
                rows.shape[1:3],
                rows.stride(),
                num_rows,
                width,
                INDEX=index_dtype(max(num_rows, width)),
                BLOCK_R=tiles.block_rows,
                BLOCK_C=tiles.block_columns,
                num_warps=tiles.num_warps,
                enable_fp_fusion=True,
            )
    return finish_output(out, dtype=x.dtype)


def launch_backward(
    gate: torch.Tensor, x: torch.Tensor, out_gradient: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the gradients of gate and x."""
    of_gate = allocate_output(gate.shape, dtype=gate.dtype, device=gate.device)
    of_x = allocate_output(x.shape, dtype=x.dtype, device=x.device)
    if x.numel():
        gates, rows, cotangents = elementwise_rows(kernel_input(gate), kernel_input(x), kernel_input(out_gradient))
        width = rows.shape[-1]
        num_rows = x.numel() // width
        tiles = elementwise_tiles(width=width, arch=architecture(x.device))
        num_programs = triton.cdiv(num_rows, tiles.block_rows) * triton.cdiv(width, tiles.block_columns)
        with non_stop_arithmetic():
            backward_kernel[(num_programs,)](
                gates,
                rows,
                cotangents,
                of_gate,
                of_x,
                gates.shape[1:3],
                gates.stride(),
                rows.shape[1:3],
                rows.stride(),
                cotangents.shape[1:3],
                cotangents.stride(),
                num_rows,
                width,
                INDEX=index_dtype(max(num_rows, width)),
                BLOCK_R=tiles.block_rows,
                BLOCK_C=tiles.block_columns,
                num_warps=tiles.num_warps,
                enable_fp_fusion=True,
            )
    return finish_output(of_gate, dtype=gate.dtype), finish_output(of_x, dtype=x.dtype)
