"""Kernels of the SiLU gate (device code; ``silu_mul`` launches them and gives the formulas)."""

import triton
import triton.language as tl

from optimized.kernels.elementary import sigmoid_pair
from optimized.kernels.rows import load_rows, store_rows, tile_of_program

__all__ = ["backward_kernel", "forward_kernel"]


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def forward_kernel(
    gate_pointer: tl.tensor,
    x_pointer: tl.tensor,
    out_pointer: tl.tensor,
    gate_sizes: tl.tensor,
    gate_strides: tl.tensor,
    x_sizes: tl.tensor,
    x_strides: tl.tensor,
    num_rows: tl.tensor,
    width: tl.tensor,
    INDEX: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """One program: a tile of BLOCK_R rows and BLOCK_C columns."""
    rows, columns = tile_of_program(width, INDEX, BLOCK_R, BLOCK_C)
    gate = load_rows(gate_pointer, rows, columns, num_rows, gate_sizes, gate_strides, width)
    x = load_rows(x_pointer, rows, columns, num_rows, x_sizes, x_strides, width)
    sigmoid, _ = sigmoid_pair(gate)
    store_rows(out_pointer, gate * sigmoid * x, rows, columns, num_rows, width)


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def backward_kernel(
    gate_pointer: tl.tensor,
    x_pointer: tl.tensor,
    out_gradient_pointer: tl.tensor,
    gate_gradient_pointer: tl.tensor,
    x_gradient_pointer: tl.tensor,
    gate_sizes: tl.tensor,
    gate_strides: tl.tensor,
    x_sizes: tl.tensor,
    x_strides: tl.tensor,
    out_gradient_sizes: tl.tensor,
    out_gradient_strides: tl.tensor,
    num_rows: tl.tensor,
    width: tl.tensor,
    INDEX: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """One program: a tile of BLOCK_R rows and BLOCK_C columns of both gradients."""
    rows, columns = tile_of_program(width, INDEX, BLOCK_R, BLOCK_C)
    gate = load_rows(gate_pointer, rows, columns, num_rows, gate_sizes, gate_strides, width)
    x = load_rows(x_pointer, rows, columns, num_rows, x_sizes, x_strides, width)
    out_gradient = load_rows(
        out_gradient_pointer, rows, columns, num_rows, out_gradient_sizes, out_gradient_strides, width
    )
    sigmoid, rest = sigmoid_pair(gate)
    slope = sigmoid + gate * rest * sigmoid
    store_rows(gate_gradient_pointer, out_gradient * x * slope, rows, columns, num_rows, width)
    store_rows(x_gradient_pointer, out_gradient * (gate * sigmoid), rows, columns, num_rows, width)
