"""Launches of the decay gates' kernels, on checked arguments. Letters: H heads."""

import torch
import triton

from optimized.kernels.decays import (
    log_sigmoid_backward_kernel,
    log_sigmoid_forward_kernel,
    mamba_backward_kernel,
    mamba_forward_kernel,
)
from optimized.kernels.precision import allocate_output, finish_output, kernel_input, non_stop_arithmetic
from optimized.kernels.rows import as_rows, elementwise_rows, index_dtype
from optimized.kernels.target import architecture
from optimized.kernels.tiling import elementwise_tiles

__all__ = [
    "launch_log_sigmoid_backward",
    "launch_log_sigmoid_forward",
    "launch_mamba_backward",
    "launch_mamba_forward",
]


def launch_mamba_forward(x: torch.Tensor, a_log: torch.Tensor, dt_bias: torch.Tensor) -> torch.Tensor:
    """Returns the output of checked arguments."""
    out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    if not x.numel():
        return out
    H = x.shape[-1]
    num_rows = x.numel() // H
    tiles = elementwise_tiles(width=H, arch=architecture(x.device))
    rows = as_rows(kernel_input(x))
    num_programs = triton.cdiv(num_rows, tiles.block_rows) * triton.cdiv(H, tiles.block_columns)
    with non_stop_arithmetic():
        mamba_forward_kernel[(num_programs,)](
            rows,
            kernel_input(a_log).contiguous(),
            kernel_input(dt_bias).contiguous(),
            out,
            rows.shape[1:3],
            rows.stride(),
            num_rows,
            H,
            INDEX=index_dtype(num_rows),
            BLOCK_R=tiles.block_rows,
            BLOCK_C=tiles.block_columns,
            num_warps=tiles.num_warps,
            enable_fp_fusion=True,
        )
    return out


def launch_mamba_backward(
    x: torch.Tensor, a_log: torch.Tensor, dt_bias: torch.Tensor, out_gradient: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the gradients of x, a_log and dt_bias."""
    gradient = allocate_output(x.shape, dtype=x.dtype, device=x.device)
    if not x.numel():
        return finish_output(gradient, dtype=x.dtype), torch.zeros_like(a_log), torch.zeros_like(dt_bias)
    H = x.shape[-1]
    num_rows = x.numel() // H
    tiles = elementwise_tiles(width=H, arch=architecture(x.device))
    num_blocks = triton.cdiv(num_rows, tiles.block_rows)
    blocks_per_program = triton.cdiv(num_blocks, min(num_blocks, tiles.num_programs))
    num_programs = triton.cdiv(num_blocks, blocks_per_program)
    partials = torch.empty((2, num_programs, H), dtype=torch.float32, device=x.device)
    rows, cotangents = as_rows(kernel_input(x)), as_rows(out_gradient)
    with non_stop_arithmetic():
        mamba_backward_kernel[(num_programs, triton.cdiv(H, tiles.block_columns))](
            rows,
            kernel_input(a_log).contiguous(),
            kernel_input(dt_bias).contiguous(),
            cotangents,
            gradient,
            partials,
            rows.shape[1:3],
            rows.stride(),
            cotangents.shape[1:3],
            cotangents.stride(),
            num_rows,
            H,
            blocks_per_program,
            INDEX=index_dtype(num_rows + blocks_per_program * tiles.block_rows),
            BLOCK_R=tiles.block_rows,
            BLOCK_C=tiles.block_columns,
            num_warps=tiles.num_warps,
            enable_fp_fusion=True,
        )
    of_a_log, of_dt_bias = partials.sum(1)
    return finish_output(gradient, dtype=x.dtype), of_a_log.to(a_log.dtype), of_dt_bias.to(dt_bias.dtype)


def launch_log_sigmoid_forward(x: torch.Tensor, *, normalizer: float) -> torch.Tensor:
    """Returns the output of checked arguments."""
    out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    if not x.numel():
        return out
    (rows,) = elementwise_rows(kernel_input(x))
    width = rows.shape[-1]
    num_rows = x.numel() // width
    tiles = elementwise_tiles(width=width, arch=architecture(x.device))
    with non_stop_arithmetic():
        log_sigmoid_forward_kernel[
            (triton.cdiv(num_rows, tiles.block_rows) * triton.cdiv(width, tiles.block_columns),)
        ](
            rows,
            out,
            rows.shape[1:3],
            rows.stride(),
            num_rows,
            width,
            normalizer,
            INDEX=index_dtype(max(num_rows, width)),
            BLOCK_R=tiles.block_rows,
            BLOCK_C=tiles.block_columns,
            num_warps=tiles.num_warps,
            enable_fp_fusion=True,
        )
    return out


def launch_log_sigmoid_backward(x: torch.Tensor, out_gradient: torch.Tensor, *, normalizer: float) -> torch.Tensor:
    """Returns the gradient of x."""
    gradient = allocate_output(x.shape, dtype=x.dtype, device=x.device)
    if not x.numel():
        return finish_output(gradient, dtype=x.dtype)
    rows, cotangents = elementwise_rows(kernel_input(x), out_gradient)
    width = rows.shape[-1]
    num_rows = x.numel() // width
    tiles = elementwise_tiles(width=width, arch=architecture(x.device))
    with non_stop_arithmetic():
        log_sigmoid_backward_kernel[
            (triton.cdiv(num_rows, tiles.block_rows) * triton.cdiv(width, tiles.block_columns),)
        ](
            rows,
            cotangents,
            gradient,
            rows.shape[1:3],
            rows.stride(),
            cotangents.shape[1:3],
            cotangents.stride(),
            num_rows,
            width,
            normalizer,
            INDEX=index_dtype(max(num_rows, width)),
            BLOCK_R=tiles.block_rows,
            BLOCK_C=tiles.block_columns,
            num_warps=tiles.num_warps,
            enable_fp_fusion=True,
        )
    return finish_output(gradient, dtype=x.dtype)
