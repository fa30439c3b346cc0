"""Kernels of RMSNorm (device code; ``rms_norm`` launches them and gives the formulas).

A tensor comes as ``(a, b, c, C)`` with four strides, so that heads cut out of a fused projection are read in place.
"""

import triton
import triton.language as tl

from optimized.kernels.precision import to_stored

__all__ = ["backward_kernel", "forward_kernel"]


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _load_rows(
    pointer: tl.tensor,
    rows: tl.tensor,
    num_rows: tl.tensor,
    strides: tl.tensor,
    size_1: tl.tensor,
    size_2: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> tl.tensor:
    """Loads the rows of a ``(a, size_1, size_2, WIDTH)`` tensor in float32; rows and columns beyond its end are 0."""
    columns = tl.arange(0, BLOCK_C).to(tl.int64)
    outer = rows // size_2
    offsets = outer // size_1 * strides[0] + outer % size_1 * strides[1] + rows % size_2 * strides[2]
    return tl.load(
        pointer + offsets[:, None] + columns[None, :] * strides[3],
        mask=(rows < num_rows)[:, None] & (columns < WIDTH)[None, :],
        other=0.0,
    ).to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _load_factor(
    weight_pointer: tl.tensor, WIDTH: tl.constexpr, IS_ZERO_CENTERED: tl.constexpr, BLOCK_C: tl.constexpr
) -> tl.tensor:
    columns = tl.arange(0, BLOCK_C)
    factor = tl.load(weight_pointer + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)
    if IS_ZERO_CENTERED:
        factor = 1.0 + factor
    return factor


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _inverse_rms(x: tl.tensor, eps: tl.tensor, WIDTH: tl.constexpr) -> tl.tensor:
    """Returns ``1 / sqrt(mean(x^2) + eps)`` per row, each step rounded to nearest."""
    return tl.div_rn(1.0, tl.sqrt_rn(tl.sum(x * x, 1) / WIDTH + eps))


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _store_rows(
    pointer: tl.tensor,
    values: tl.tensor,
    rows: tl.tensor,
    num_rows: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    columns = tl.arange(0, BLOCK_C)
    tl.store(
        pointer + rows[:, None] * WIDTH + columns[None, :],
        to_stored(values, pointer),
        mask=(rows < num_rows)[:, None] & (columns < WIDTH)[None, :],
    )


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def forward_kernel(
    x_pointer: tl.tensor,
    weight_pointer: tl.tensor,
    out_pointer: tl.tensor,
    x_strides: tl.tensor,
    num_rows: tl.tensor,
    size_1: tl.tensor,
    size_2: tl.tensor,
    eps: tl.tensor,
    WIDTH: tl.constexpr,
    IS_ZERO_CENTERED: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """One program: BLOCK_R rows."""
    rows = tl.cast(tl.program_id(0), tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    x = _load_rows(x_pointer, rows, num_rows, x_strides, size_1, size_2, WIDTH, BLOCK_C)
    factor = _load_factor(weight_pointer, WIDTH, IS_ZERO_CENTERED, BLOCK_C)
    out = x * _inverse_rms(x, eps, WIDTH)[:, None] * factor[None, :]
    _store_rows(out_pointer, out, rows, num_rows, WIDTH, BLOCK_C)


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def backward_kernel(
    x_pointer: tl.tensor,
    weight_pointer: tl.tensor,
    out_gradient_pointer: tl.tensor,
    gradient_pointer: tl.tensor,
    partials_pointer: tl.tensor,
    x_strides: tl.tensor,
    out_gradient_strides: tl.tensor,
    num_rows: tl.tensor,
    x_sizes: tl.tensor,
    out_gradient_sizes: tl.tensor,
    blocks_per_program: tl.tensor,
    eps: tl.tensor,
    WIDTH: tl.constexpr,
    IS_ZERO_CENTERED: tl.constexpr,
    HAS_WEIGHT_GRADIENT: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """One program: ``blocks_per_program`` times BLOCK_R rows, one after the other, and their part of dweight."""
    factor = _load_factor(weight_pointer, WIDTH, IS_ZERO_CENTERED, BLOCK_C)
    weight_gradient = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    first_row = tl.cast(tl.program_id(0), tl.int64) * blocks_per_program * BLOCK_R
    for block in range(blocks_per_program):
        rows = first_row + block * BLOCK_R + tl.arange(0, BLOCK_R)
        x = _load_rows(x_pointer, rows, num_rows, x_strides, x_sizes[0], x_sizes[1], WIDTH, BLOCK_C)
        out_gradient = _load_rows(
            out_gradient_pointer,
            rows,
            num_rows,
            out_gradient_strides,
            out_gradient_sizes[0],
            out_gradient_sizes[1],
            WIDTH,
            BLOCK_C,
        )
        inverse_rms = _inverse_rms(x, eps, WIDTH)[:, None]
        normalised = x * inverse_rms
        scaled = out_gradient * factor[None, :]
        mean = tl.sum(scaled * normalised, 1) / WIDTH
        _store_rows(
            gradient_pointer, inverse_rms * (scaled - normalised * mean[:, None]), rows, num_rows, WIDTH, BLOCK_C
        )
        if HAS_WEIGHT_GRADIENT:
            weight_gradient += out_gradient * normalised
    if HAS_WEIGHT_GRADIENT:
        columns = tl.arange(0, BLOCK_C)
        tl.store(
            partials_pointer + tl.cast(tl.program_id(0), tl.int64) * WIDTH + columns,
            tl.sum(weight_gradient, 0),
            mask=columns < WIDTH,
        )
