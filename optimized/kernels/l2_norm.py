"""Kernels of the L2 norm (device code; ``l2_norm`` launches them and gives the formulas).

A row of at most BLOCK_C columns is read once and stays in registers; a wider one is read again for the result.
"""

import triton
import triton.language as tl

from optimized.kernels.rows import load_rows, store_rows

__all__ = ["backward_kernel", "forward_kernel"]


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _inverse_norm(total: tl.tensor, eps: tl.tensor) -> tl.tensor:
    """Returns ``1 / sqrt(total + eps)``, each step rounded to nearest."""
    return tl.div_rn(1.0, tl.sqrt_rn(total + eps))


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def forward_kernel(
    x_pointer: tl.tensor,
    out_pointer: tl.tensor,
    x_sizes: tl.tensor,
    x_strides: tl.tensor,
    num_rows: tl.tensor,
    eps: tl.tensor,
    WIDTH: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """One program: BLOCK_R rows."""
    rows = tl.cast(tl.program_id(0), INDEX) * BLOCK_R + tl.arange(0, BLOCK_R)
    columns = tl.arange(0, BLOCK_C)
    if WIDTH <= BLOCK_C:
        x = load_rows(x_pointer, rows, columns, num_rows, x_sizes, x_strides, WIDTH)
        inverse = _inverse_norm(tl.sum(x * x, 1), eps)[:, None]
        store_rows(out_pointer, x * inverse, rows, columns, num_rows, WIDTH)
    else:
        squares = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
        for first in range(0, WIDTH, BLOCK_C):
            x = load_rows(x_pointer, rows, first + columns, num_rows, x_sizes, x_strides, WIDTH)
            squares += x * x
        inverse = _inverse_norm(tl.sum(squares, 1), eps)[:, None]
        for first in range(0, WIDTH, BLOCK_C):
            x = load_rows(x_pointer, rows, first + columns, num_rows, x_sizes, x_strides, WIDTH)
            store_rows(out_pointer, x * inverse, rows, first + columns, num_rows, WIDTH)


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def backward_kernel(
    x_pointer: tl.tensor,
    out_gradient_pointer: tl.tensor,
    gradient_pointer: tl.tensor,
    x_sizes: tl.tensor,
    x_strides: tl.tensor,
    out_gradient_sizes: tl.tensor,
    out_gradient_strides: tl.tensor,
    num_rows: tl.tensor,
    eps: tl.tensor,
    WIDTH: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """One program: BLOCK_R rows."""
    rows = tl.cast(tl.program_id(0), INDEX) * BLOCK_R + tl.arange(0, BLOCK_R)
    columns = tl.arange(0, BLOCK_C)
    if WIDTH <= BLOCK_C:
        x = load_rows(x_pointer, rows, columns, num_rows, x_sizes, x_strides, WIDTH)
        out_gradient = load_rows(
            out_gradient_pointer, rows, columns, num_rows, out_gradient_sizes, out_gradient_strides, WIDTH
        )
        inverse = _inverse_norm(tl.sum(x * x, 1), eps)[:, None]
        unit = x * inverse
        along = tl.sum(out_gradient * unit, 1)[:, None]
        store_rows(gradient_pointer, inverse * (out_gradient - unit * along), rows, columns, num_rows, WIDTH)
    else:
        squares = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
        products = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
        for first in range(0, WIDTH, BLOCK_C):
            at = first + columns
            x = load_rows(x_pointer, rows, at, num_rows, x_sizes, x_strides, WIDTH)
            out_gradient = load_rows(
                out_gradient_pointer, rows, at, num_rows, out_gradient_sizes, out_gradient_strides, WIDTH
            )
            squares += x * x
            products += out_gradient * x
        inverse = _inverse_norm(tl.sum(squares, 1), eps)[:, None]
        along = tl.sum(products, 1)[:, None] * inverse
        for first in range(0, WIDTH, BLOCK_C):
            at = first + columns
            x = load_rows(x_pointer, rows, at, num_rows, x_sizes, x_strides, WIDTH)
            out_gradient = load_rows(
                out_gradient_pointer, rows, at, num_rows, out_gradient_sizes, out_gradient_strides, WIDTH
            )
            gradient = inverse * (out_gradient - x * inverse * along)
            store_rows(gradient_pointer, gradient, rows, at, num_rows, WIDTH)
