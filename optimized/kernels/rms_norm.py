"""Kernels of RMSNorm, plain and gated (device code; the formulas stand in ``rms_norm`` and ``gated_rms_norm``).

A row of at most BLOCK_C columns is read once and stays in registers; a wider one is read again for the result.
"""

import triton
import triton.language as tl

from optimized.kernels.elementary import sigmoid_pair
from optimized.kernels.rows import load_rows, store_rows

__all__ = ["backward_kernel", "forward_kernel", "wide_backward_kernel"]


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _load_factor(
    weight_pointer: tl.tensor, columns: tl.tensor, WIDTH: tl.constexpr, IS_ZERO_CENTERED: tl.constexpr
) -> tl.tensor:
    """Returns one row of ``weight``, or of ``1 + weight``, in float32."""
    factor = tl.load(weight_pointer + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)
    if IS_ZERO_CENTERED:
        factor = 1.0 + factor
    return factor[None, :]


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _inverse_rms(total: tl.tensor, eps: tl.tensor, WIDTH: tl.constexpr) -> tl.tensor:
    """Returns ``1 / sqrt(total / WIDTH + eps)`` as a column, each step rounded to nearest."""
    return tl.div_rn(1.0, tl.sqrt_rn(total / WIDTH + eps))[:, None]


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def forward_kernel(
    x_pointer: tl.tensor,
    gate_pointer: tl.tensor,
    weight_pointer: tl.tensor,
    out_pointer: tl.tensor,
    x_sizes: tl.tensor,
    x_strides: tl.tensor,
    gate_sizes: tl.tensor,
    gate_strides: tl.tensor,
    num_rows: tl.tensor,
    eps: tl.tensor,
    WIDTH: tl.constexpr,
    IS_ZERO_CENTERED: tl.constexpr,
    HAS_GATE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """One program: BLOCK_R rows."""
    rows = tl.cast(tl.program_id(0), INDEX) * BLOCK_R + tl.arange(0, BLOCK_R)
    x = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    squares = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    for first in range(0, WIDTH, BLOCK_C):
        x = load_rows(x_pointer, rows, first + tl.arange(0, BLOCK_C), num_rows, x_sizes, x_strides, WIDTH)
        squares += x * x
    inverse = _inverse_rms(tl.sum(squares, 1), eps, WIDTH)
    for first in range(0, WIDTH, BLOCK_C):
        columns = first + tl.arange(0, BLOCK_C)
        if WIDTH > BLOCK_C:
            x = load_rows(x_pointer, rows, columns, num_rows, x_sizes, x_strides, WIDTH)
        out = x * inverse * _load_factor(weight_pointer, columns, WIDTH, IS_ZERO_CENTERED)
        if HAS_GATE:
            gate = load_rows(gate_pointer, rows, columns, num_rows, gate_sizes, gate_strides, WIDTH)
            sigmoid, _ = sigmoid_pair(gate)
            out *= gate * sigmoid
        store_rows(out_pointer, out, rows, columns, num_rows, WIDTH)


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _load_cotangents(
    gate_pointer: tl.tensor,
    out_gradient_pointer: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    num_rows: tl.tensor,
    gate_sizes: tl.tensor,
    gate_strides: tl.tensor,
    out_gradient_sizes: tl.tensor,
    out_gradient_strides: tl.tensor,
    WIDTH: tl.constexpr,
    HAS_GATE: tl.constexpr,
) -> tl.tuple:
    """Returns the cotangent of the norm, ``g silu(gate)``, and ``g silu'(gate)``; without a gate g twice."""
    out_gradient = load_rows(
        out_gradient_pointer, rows, columns, num_rows, out_gradient_sizes, out_gradient_strides, WIDTH
    )
    of_norm, of_gate = out_gradient, out_gradient
    if HAS_GATE:
        gate = load_rows(gate_pointer, rows, columns, num_rows, gate_sizes, gate_strides, WIDTH)
        sigmoid, rest = sigmoid_pair(gate)
        of_norm = out_gradient * (gate * sigmoid)
        of_gate = out_gradient * (sigmoid + gate * rest * sigmoid)
    return of_norm, of_gate


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def backward_kernel(
    x_pointer: tl.tensor,
    gate_pointer: tl.tensor,
    weight_pointer: tl.tensor,
    out_gradient_pointer: tl.tensor,
    gradient_pointer: tl.tensor,
    gate_gradient_pointer: tl.tensor,
    partials_pointer: tl.tensor,
    x_sizes: tl.tensor,
    x_strides: tl.tensor,
    gate_sizes: tl.tensor,
    gate_strides: tl.tensor,
    out_gradient_sizes: tl.tensor,
    out_gradient_strides: tl.tensor,
    num_rows: tl.tensor,
    blocks_per_program: tl.tensor,
    eps: tl.tensor,
    WIDTH: tl.constexpr,
    IS_ZERO_CENTERED: tl.constexpr,
    HAS_GATE: tl.constexpr,
    HAS_WEIGHT_GRADIENT: tl.constexpr,
    INDEX: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """One program: ``blocks_per_program`` times BLOCK_R rows, one after the other, and their part of dweight.

    Rows are loaded STAGES - 1 blocks ahead.
    """
    if HAS_WEIGHT_GRADIENT:
        partials_pointer += tl.cast(tl.program_id(0), tl.int64) * WIDTH
    first_row = tl.cast(tl.program_id(0), INDEX) * blocks_per_program * BLOCK_R
    columns = tl.arange(0, BLOCK_C)
    factor = _load_factor(weight_pointer, columns, WIDTH, IS_ZERO_CENTERED)
    weight_gradient = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    for block in tl.range(blocks_per_program, num_stages=STAGES):
        rows = first_row + block * BLOCK_R + tl.arange(0, BLOCK_R)
        x = load_rows(x_pointer, rows, columns, num_rows, x_sizes, x_strides, WIDTH)
        of_norm, of_gate = _load_cotangents(
            gate_pointer, out_gradient_pointer, rows, columns, num_rows, gate_sizes, gate_strides,
            out_gradient_sizes, out_gradient_strides, WIDTH, HAS_GATE,
        )  # fmt: skip
        inverse = _inverse_rms(tl.sum(x * x, 1), eps, WIDTH)
        normalised = x * inverse
        along = (tl.sum(of_norm * factor * normalised, 1) / WIDTH)[:, None]
        gradient = inverse * (of_norm * factor - normalised * along)
        store_rows(gradient_pointer, gradient, rows, columns, num_rows, WIDTH)
        if HAS_GATE:
            store_rows(gate_gradient_pointer, of_gate * (normalised * factor), rows, columns, num_rows, WIDTH)
        if HAS_WEIGHT_GRADIENT:
            weight_gradient += of_norm * normalised
    if HAS_WEIGHT_GRADIENT:
        tl.store(partials_pointer + columns, tl.sum(weight_gradient, 0), mask=columns < WIDTH)


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def wide_backward_kernel(
    x_pointer: tl.tensor,
    gate_pointer: tl.tensor,
    weight_pointer: tl.tensor,
    out_gradient_pointer: tl.tensor,
    gradient_pointer: tl.tensor,
    gate_gradient_pointer: tl.tensor,
    partials_pointer: tl.tensor,
    x_sizes: tl.tensor,
    x_strides: tl.tensor,
    gate_sizes: tl.tensor,
    gate_strides: tl.tensor,
    out_gradient_sizes: tl.tensor,
    out_gradient_strides: tl.tensor,
    num_rows: tl.tensor,
    eps: tl.tensor,
    WIDTH: tl.constexpr,
    IS_ZERO_CENTERED: tl.constexpr,
    HAS_GATE: tl.constexpr,
    HAS_WEIGHT_GRADIENT: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """One program: BLOCK_R rows of more than BLOCK_C columns, read twice, and their part of dweight."""
    if HAS_WEIGHT_GRADIENT:
        partials_pointer += tl.cast(tl.program_id(0), tl.int64) * WIDTH
    rows = tl.cast(tl.program_id(0), INDEX) * BLOCK_R + tl.arange(0, BLOCK_R)
    squares = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    products = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    for first in range(0, WIDTH, BLOCK_C):
        columns = first + tl.arange(0, BLOCK_C)
        x = load_rows(x_pointer, rows, columns, num_rows, x_sizes, x_strides, WIDTH)
        of_norm, _ = _load_cotangents(
            gate_pointer, out_gradient_pointer, rows, columns, num_rows, gate_sizes, gate_strides,
            out_gradient_sizes, out_gradient_strides, WIDTH, HAS_GATE,
        )  # fmt: skip
        squares += x * x
        products += of_norm * _load_factor(weight_pointer, columns, WIDTH, IS_ZERO_CENTERED) * x
    inverse = _inverse_rms(tl.sum(squares, 1), eps, WIDTH)
    along = (tl.sum(products, 1) / WIDTH)[:, None] * inverse
    for first in range(0, WIDTH, BLOCK_C):
        columns = first + tl.arange(0, BLOCK_C)
        factor = _load_factor(weight_pointer, columns, WIDTH, IS_ZERO_CENTERED)
        normalised = inverse * load_rows(x_pointer, rows, columns, num_rows, x_sizes, x_strides, WIDTH)
        of_norm, of_gate = _load_cotangents(
            gate_pointer, out_gradient_pointer, rows, columns, num_rows, gate_sizes, gate_strides,
            out_gradient_sizes, out_gradient_strides, WIDTH, HAS_GATE,
        )  # fmt: skip
        gradient = inverse * (of_norm * factor - normalised * along)
        store_rows(gradient_pointer, gradient, rows, columns, num_rows, WIDTH)
        if HAS_GATE:
            store_rows(gate_gradient_pointer, of_gate * (normalised * factor), rows, columns, num_rows, WIDTH)
        if HAS_WEIGHT_GRADIENT:
            tl.store(partials_pointer + columns, tl.sum(of_norm * normalised, 0), mask=columns < WIDTH)
