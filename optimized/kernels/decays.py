"""Kernels of the decay gates (device code; ``mamba_decay`` and ``log_sigmoid_decay`` launch them)."""

import triton
import triton.language as tl

from optimized.kernels.elementary import accurate_exp, log1p_exp, sigmoid_pair
from optimized.kernels.rows import load_rows, store_rows, tile_of_program

__all__ = [
    "log_sigmoid_backward_kernel",
    "log_sigmoid_forward_kernel",
    "mamba_backward_kernel",
    "mamba_forward_kernel",
]


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _softplus(x: tl.tensor) -> tl.tensor:
    """Returns ``log(1 + exp(x))``, with full relative accuracy where it is tiny."""
    return tl.where(x > 0, x, 0.0) + log1p_exp(-tl.abs(x))


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _load_per_head(pointer: tl.tensor, columns: tl.tensor, num_heads: tl.tensor) -> tl.tensor:
    return tl.load(pointer + columns, mask=columns < num_heads, other=0.0).to(tl.float32)[None, :]


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def mamba_forward_kernel(
    x_pointer: tl.tensor,
    a_log_pointer: tl.tensor,
    dt_bias_pointer: tl.tensor,
    out_pointer: tl.tensor,
    x_sizes: tl.tensor,
    x_strides: tl.tensor,
    num_rows: tl.tensor,
    num_heads: tl.tensor,
    INDEX: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """One program: a tile of BLOCK_R tokens and BLOCK_C heads."""
    rows, columns = tile_of_program(num_heads, INDEX, BLOCK_R, BLOCK_C)
    x = load_rows(x_pointer, rows, columns, num_rows, x_sizes, x_strides, num_heads)
    step = _softplus(x + _load_per_head(dt_bias_pointer, columns, num_heads))
    rate = accurate_exp(_load_per_head(a_log_pointer, columns, num_heads))
    store_rows(out_pointer, -rate * step, rows, columns, num_rows, num_heads)


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def mamba_backward_kernel(
    x_pointer: tl.tensor,
    a_log_pointer: tl.tensor,
    dt_bias_pointer: tl.tensor,
    out_gradient_pointer: tl.tensor,
    gradient_pointer: tl.tensor,
    partials_pointer: tl.tensor,
    x_sizes: tl.tensor,
    x_strides: tl.tensor,
    out_gradient_sizes: tl.tensor,
    out_gradient_strides: tl.tensor,
    num_rows: tl.tensor,
    num_heads: tl.tensor,
    blocks_per_program: tl.tensor,
    INDEX: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """One program: ``blocks_per_program`` tiles, one below the other, and their part of the heads' gradients.

    ``partials`` is ``(2, programs along the tokens, num_heads)``: first of a_log, then of dt_bias.
    """
    columns = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    dt_bias = _load_per_head(dt_bias_pointer, columns, num_heads)
    rate = accurate_exp(_load_per_head(a_log_pointer, columns, num_heads))
    of_a_log = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    of_dt_bias = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    first_row = tl.cast(tl.program_id(0), INDEX) * blocks_per_program * BLOCK_R
    for block in range(blocks_per_program):
        rows = first_row + block * BLOCK_R + tl.arange(0, BLOCK_R)
        x = load_rows(x_pointer, rows, columns, num_rows, x_sizes, x_strides, num_heads)
        out_gradient = load_rows(
            out_gradient_pointer, rows, columns, num_rows, out_gradient_sizes, out_gradient_strides, num_heads
        )
        argument = x + dt_bias
        scaled = -out_gradient * rate
        slope, _ = sigmoid_pair(argument)
        gradient = scaled * slope
        store_rows(gradient_pointer, gradient, rows, columns, num_rows, num_heads)
        # Rows beyond the end have a cotangent of 0.
        of_dt_bias += gradient
        of_a_log += scaled * _softplus(argument)
    at = partials_pointer + tl.cast(tl.program_id(0), tl.int64) * num_heads + columns
    tl.store(at, tl.sum(of_a_log, 0), mask=columns < num_heads)
    at += tl.cast(tl.num_programs(0), tl.int64) * num_heads
    tl.store(at, tl.sum(of_dt_bias, 0), mask=columns < num_heads)


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def log_sigmoid_forward_kernel(
    x_pointer: tl.tensor,
    out_pointer: tl.tensor,
    x_sizes: tl.tensor,
    x_strides: tl.tensor,
    num_rows: tl.tensor,
    width: tl.tensor,
    normalizer: tl.tensor,
    INDEX: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """One program: a tile of BLOCK_R rows and BLOCK_C columns."""
    rows, columns = tile_of_program(width, INDEX, BLOCK_R, BLOCK_C)
    x = load_rows(x_pointer, rows, columns, num_rows, x_sizes, x_strides, width)
    store_rows(out_pointer, tl.div_rn(-_softplus(-x), normalizer), rows, columns, num_rows, width)


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def log_sigmoid_backward_kernel(
    x_pointer: tl.tensor,
    out_gradient_pointer: tl.tensor,
    gradient_pointer: tl.tensor,
    x_sizes: tl.tensor,
    x_strides: tl.tensor,
    out_gradient_sizes: tl.tensor,
    out_gradient_strides: tl.tensor,
    num_rows: tl.tensor,
    width: tl.tensor,
    normalizer: tl.tensor,
    INDEX: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """One program: a tile of BLOCK_R rows and BLOCK_C columns."""
    rows, columns = tile_of_program(width, INDEX, BLOCK_R, BLOCK_C)
    x = load_rows(x_pointer, rows, columns, num_rows, x_sizes, x_strides, width)
    out_gradient = load_rows(
        out_gradient_pointer, rows, columns, num_rows, out_gradient_sizes, out_gradient_strides, width
    )
    _, rest = sigmoid_pair(x)
    store_rows(gradient_pointer, tl.div_rn(out_gradient * rest, normalizer), rows, columns, num_rows, width)
