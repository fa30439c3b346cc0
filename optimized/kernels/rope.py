"""Kernels of the rotary embedding (device code; ``rope`` launches them and gives the formulas).

A program loads the angles of its tokens and pairs of channels once and turns one head after the other by them. Pairs of
adjacent channels are loaded as whole rows and parted in registers. Program ``p`` along the channels also copies its
share of the channels that are not turned.
"""

import triton
import triton.language as tl

from optimized.kernels.precision import to_stored

__all__ = ["backward_kernel", "forward_kernel"]


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _token_offsets(tokens: tl.tensor, num_positions: tl.tensor, strides: tl.tensor) -> tl.tensor:
    """Returns where the tokens, numbered through the batch, begin in a tensor of ``(batch, position, ...)``."""
    batch = (tokens // num_positions).to(tl.int64)
    return batch * strides[0] + (tokens % num_positions).to(tl.int64) * strides[1]


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _load_columns(
    pointer: tl.tensor, offsets: tl.tensor, columns: tl.tensor, stride: tl.tensor, mask: tl.tensor
) -> tl.tensor:
    at = pointer + offsets[:, None] + columns.to(tl.int64)[None, :] * stride
    return tl.load(at, mask=mask, other=0.0).to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _load_pairs(
    pointer: tl.tensor,
    offsets: tl.tensor,
    is_token: tl.tensor,
    stride: tl.tensor,
    ROTATED: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_P: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Returns the first and the second channels of this program's pairs in float32."""
    if INTERLEAVED:
        columns = tl.program_id(1) * (2 * BLOCK_P) + tl.arange(0, 2 * BLOCK_P)
        mask = is_token[:, None] & (columns < ROTATED)[None, :]
        both = _load_columns(pointer, offsets, columns, stride, mask)
        first, second = tl.split(tl.reshape(both, [BLOCK_T, BLOCK_P, 2]))
    else:
        columns = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
        mask = is_token[:, None] & (columns < ROTATED // 2)[None, :]
        first = _load_columns(pointer, offsets, columns, stride, mask)
        second = _load_columns(pointer, offsets, columns + ROTATED // 2, stride, mask)
    return first, second


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _store_pairs(
    pointer: tl.tensor,
    first: tl.tensor,
    second: tl.tensor,
    offsets: tl.tensor,
    is_token: tl.tensor,
    ROTATED: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    BLOCK_P: tl.constexpr,
) -> None:
    """Stores what ``_load_pairs`` loads into rows of adjacent channels."""
    if INTERLEAVED:
        columns = tl.program_id(1) * (2 * BLOCK_P) + tl.arange(0, 2 * BLOCK_P)
        mask = is_token[:, None] & (columns < ROTATED)[None, :]
        tl.store(
            pointer + offsets[:, None] + columns[None, :], to_stored(tl.interleave(first, second), pointer), mask=mask
        )
    else:
        columns = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
        mask = is_token[:, None] & (columns < ROTATED // 2)[None, :]
        at = pointer + offsets[:, None] + columns[None, :]
        tl.store(at, to_stored(first, pointer), mask=mask)
        tl.store(at + ROTATED // 2, to_stored(second, pointer), mask=mask)


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _copy_passed(
    source_pointer: tl.tensor,
    target_pointer: tl.tensor,
    source_offsets: tl.tensor,
    target_offsets: tl.tensor,
    is_token: tl.tensor,
    source_stride: tl.tensor,
    ROTATED: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_P: tl.constexpr,
) -> None:
    """Copies this program's share of the channels from ROTATED on."""
    columns = ROTATED + tl.program_id(1) * (2 * BLOCK_P) + tl.arange(0, 2 * BLOCK_P)
    mask = is_token[:, None] & (columns < WIDTH)[None, :]
    values = _load_columns(source_pointer, source_offsets, columns, source_stride, mask)
    at = target_pointer + target_offsets[:, None] + columns[None, :]
    tl.store(at, to_stored(values, target_pointer), mask=mask)


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def forward_kernel(
    x_pointer: tl.tensor,
    cos_pointer: tl.tensor,
    sin_pointer: tl.tensor,
    out_pointer: tl.tensor,
    x_strides: tl.tensor,
    cos_strides: tl.tensor,
    sin_strides: tl.tensor,
    num_tokens: tl.tensor,
    num_positions: tl.tensor,
    num_heads: tl.tensor,
    heads_per_program: tl.tensor,
    ROTATED: tl.constexpr,
    WIDTH: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_P: tl.constexpr,
) -> None:
    """One program: BLOCK_T tokens, BLOCK_P pairs of channels, ``heads_per_program`` heads."""
    tokens = tl.cast(tl.program_id(0), INDEX) * BLOCK_T + tl.arange(0, BLOCK_T)
    is_token = tokens < num_tokens
    x_offsets = _token_offsets(tokens, num_positions, x_strides)
    cos_offsets = _token_offsets(tokens, num_positions, cos_strides)
    sin_offsets = _token_offsets(tokens, num_positions, sin_strides)
    out_offsets = tokens.to(tl.int64) * num_heads * WIDTH
    cos_1, cos_2 = _load_pairs(
        cos_pointer, cos_offsets, is_token, cos_strides[2], ROTATED, INTERLEAVED, BLOCK_T, BLOCK_P
    )
    sin_1, sin_2 = _load_pairs(
        sin_pointer, sin_offsets, is_token, sin_strides[2], ROTATED, INTERLEAVED, BLOCK_T, BLOCK_P
    )
    first_head = tl.program_id(2) * heads_per_program
    for index in range(first_head, tl.minimum(first_head + heads_per_program, num_heads)):
        head = tl.cast(index, tl.int64)
        source, target = x_offsets + head * x_strides[2], out_offsets + head * WIDTH
        x_1, x_2 = _load_pairs(x_pointer, source, is_token, x_strides[3], ROTATED, INTERLEAVED, BLOCK_T, BLOCK_P)
        _store_pairs(
            out_pointer,
            x_1 * cos_1 - x_2 * sin_1,
            x_2 * cos_2 + x_1 * sin_2,
            target,
            is_token,
            ROTATED,
            INTERLEAVED,
            BLOCK_P,
        )
        if WIDTH > ROTATED:
            _copy_passed(x_pointer, out_pointer, source, target, is_token, x_strides[3], ROTATED, WIDTH, BLOCK_P)


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def backward_kernel(
    x_pointer: tl.tensor,
    cos_pointer: tl.tensor,
    sin_pointer: tl.tensor,
    out_gradient_pointer: tl.tensor,
    gradient_pointer: tl.tensor,
    cos_gradient_pointer: tl.tensor,
    sin_gradient_pointer: tl.tensor,
    x_strides: tl.tensor,
    cos_strides: tl.tensor,
    sin_strides: tl.tensor,
    out_gradient_strides: tl.tensor,
    num_tokens: tl.tensor,
    num_positions: tl.tensor,
    num_heads: tl.tensor,
    heads_per_program: tl.tensor,
    ROTATED: tl.constexpr,
    WIDTH: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    HAS_TABLE_GRADIENTS: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_P: tl.constexpr,
) -> None:
    """One program: as forward; with HAS_TABLE_GRADIENTS it has all heads and adds up their part of the tables'."""
    tokens = tl.cast(tl.program_id(0), INDEX) * BLOCK_T + tl.arange(0, BLOCK_T)
    is_token = tokens < num_tokens
    out_gradient_offsets = _token_offsets(tokens, num_positions, out_gradient_strides)
    cos_offsets = _token_offsets(tokens, num_positions, cos_strides)
    sin_offsets = _token_offsets(tokens, num_positions, sin_strides)
    gradient_offsets = tokens.to(tl.int64) * num_heads * WIDTH
    cos_1, cos_2 = _load_pairs(
        cos_pointer, cos_offsets, is_token, cos_strides[2], ROTATED, INTERLEAVED, BLOCK_T, BLOCK_P
    )
    sin_1, sin_2 = _load_pairs(
        sin_pointer, sin_offsets, is_token, sin_strides[2], ROTATED, INTERLEAVED, BLOCK_T, BLOCK_P
    )
    if HAS_TABLE_GRADIENTS:
        x_offsets = _token_offsets(tokens, num_positions, x_strides)
        of_cos_1 = tl.zeros([BLOCK_T, BLOCK_P], tl.float32)
        of_cos_2 = tl.zeros([BLOCK_T, BLOCK_P], tl.float32)
        of_sin_1 = tl.zeros([BLOCK_T, BLOCK_P], tl.float32)
        of_sin_2 = tl.zeros([BLOCK_T, BLOCK_P], tl.float32)
    first_head = tl.program_id(2) * heads_per_program
    for index in range(first_head, tl.minimum(first_head + heads_per_program, num_heads)):
        head = tl.cast(index, tl.int64)
        source, target = out_gradient_offsets + head * out_gradient_strides[2], gradient_offsets + head * WIDTH
        stride = out_gradient_strides[3]
        g_1, g_2 = _load_pairs(out_gradient_pointer, source, is_token, stride, ROTATED, INTERLEAVED, BLOCK_T, BLOCK_P)
        _store_pairs(
            gradient_pointer,
            g_1 * cos_1 + g_2 * sin_2,
            g_2 * cos_2 - g_1 * sin_1,
            target,
            is_token,
            ROTATED,
            INTERLEAVED,
            BLOCK_P,
        )
        if WIDTH > ROTATED:
            _copy_passed(
                out_gradient_pointer, gradient_pointer, source, target, is_token, stride, ROTATED, WIDTH, BLOCK_P
            )
        if HAS_TABLE_GRADIENTS:
            at = x_offsets + head * x_strides[2]
            x_1, x_2 = _load_pairs(x_pointer, at, is_token, x_strides[3], ROTATED, INTERLEAVED, BLOCK_T, BLOCK_P)
            of_cos_1 += g_1 * x_1
            of_cos_2 += g_2 * x_2
            of_sin_1 -= g_1 * x_2
            of_sin_2 += g_2 * x_1
    if HAS_TABLE_GRADIENTS:
        at = tokens.to(tl.int64) * ROTATED
        _store_pairs(cos_gradient_pointer, of_cos_1, of_cos_2, at, is_token, ROTATED, INTERLEAVED, BLOCK_P)
        _store_pairs(sin_gradient_pointer, of_sin_1, of_sin_2, at, is_token, ROTATED, INTERLEAVED, BLOCK_P)
