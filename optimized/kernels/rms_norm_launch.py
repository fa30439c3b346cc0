"""Launches of the RMSNorm kernels, which the plain and the gated norm share; a gate of None is no gate.

Letters: C channels, the last axis.
"""

from typing import NamedTuple

import torch
import triton

from optimized.kernels.precision import allocate_output, finish_output, kernel_input, non_stop_arithmetic
from optimized.kernels.rms_norm import backward_kernel, forward_kernel, wide_backward_kernel
from optimized.kernels.rows import as_rows, index_dtype
from optimized.kernels.target import architecture
from optimized.kernels.tiling import rms_norm_tiles

__all__ = ["RmsNormGradients", "launch_backward", "launch_forward"]


class RmsNormGradients(NamedTuple):
    """Gradients of a norm; None where there is no gate or where none was asked for."""

    x: torch.Tensor
    gate: torch.Tensor | None
    weight: torch.Tensor | None


def launch_forward(
    x: torch.Tensor, weight: torch.Tensor, *, eps: float, zero_centered: bool, gate: torch.Tensor | None = None
) -> torch.Tensor:
    """Returns the output of checked arguments."""
    out = allocate_output(x.shape, dtype=x.dtype, device=x.device)
    if not x.numel():
        return finish_output(out, dtype=x.dtype)
    C = x.shape[-1]
    num_rows = x.numel() // C
    tiles = rms_norm_tiles(width=C, is_gated=gate is not None, dtype=x.dtype, arch=architecture(x.device))
    rows = as_rows(kernel_input(x))
    gates = None if gate is None else as_rows(kernel_input(gate))
    with non_stop_arithmetic():
        forward_kernel[(triton.cdiv(num_rows, tiles.block_rows),)](
            rows,
            gates,
            kernel_input(weight).contiguous(),
            out,
            *_layout(rows),
            *_layout(gates),
            num_rows,
            eps,
            WIDTH=C,
            IS_ZERO_CENTERED=zero_centered,
            HAS_GATE=gate is not None,
            INDEX=index_dtype(num_rows),
            BLOCK_R=tiles.block_rows,
            BLOCK_C=tiles.block_columns,
            num_warps=tiles.num_warps,
            enable_fp_fusion=True,
        )
    return finish_output(out, dtype=x.dtype)


def launch_backward(
    x: torch.Tensor,
    weight: torch.Tensor,
    out_gradient: torch.Tensor,
    *,
    eps: float,
    zero_centered: bool,
    of_weight: bool,
    gate: torch.Tensor | None = None,
) -> RmsNormGradients:
    """Returns the gradients of x, of the gate and, if wanted, of the weight, for checked arguments."""
    gradient = allocate_output(x.shape, dtype=x.dtype, device=x.device)
    gate_gradient = None if gate is None else allocate_output(gate.shape, dtype=gate.dtype, device=gate.device)
    C = x.shape[-1]
    num_rows = x.numel() // C
    tiles = rms_norm_tiles(width=C, is_gated=gate is not None, dtype=x.dtype, arch=architecture(x.device))
    num_blocks = triton.cdiv(num_rows, tiles.block_rows)
    is_wide = tiles.block_columns < C
    num_programs = num_blocks if is_wide else min(num_blocks, tiles.num_programs)
    partials = torch.empty((num_programs, C), dtype=torch.float32, device=x.device) if of_weight else None
    if num_rows:
        rows, cotangents = as_rows(kernel_input(x)), as_rows(kernel_input(out_gradient))
        gates = None if gate is None else as_rows(kernel_input(gate))
        kernel = (wide_backward_kernel if is_wide else backward_kernel)[(num_programs,)]
        narrow = () if is_wide else (triton.cdiv(num_blocks, num_programs),)
        stages = {} if is_wide else {"STAGES": tiles.num_stages}
        with non_stop_arithmetic():
            kernel(
                rows,
                gates,
                kernel_input(weight).contiguous(),
                cotangents,
                gradient,
                gate_gradient,
                partials,
                *_layout(rows),
                *_layout(gates),
                *_layout(cotangents),
                num_rows,
                *narrow,
                eps,
                WIDTH=C,
                IS_ZERO_CENTERED=zero_centered,
                HAS_GATE=gate is not None,
                HAS_WEIGHT_GRADIENT=of_weight,
                INDEX=index_dtype(num_rows),
                BLOCK_R=tiles.block_rows,
                BLOCK_C=tiles.block_columns,
                num_warps=tiles.num_warps,
                enable_fp_fusion=True,
                **stages,
            )
    return RmsNormGradients(
        x=finish_output(gradient, dtype=x.dtype),
        gate=None if gate is None or gate_gradient is None else finish_output(gate_gradient, dtype=gate.dtype),
        weight=None if partials is None else partials.sum(0).to(weight.dtype),
    )


def _layout(rows: torch.Tensor | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the sizes and the strides that a kernel finds rows by; those of a tensor that is not there are 1."""
    return ((1, 1), (1, 1, 1, 1)) if rows is None else (tuple(rows.shape[1:3]), rows.stride())
