"""Kernels of the short causal convolution (device code; ``short_conv`` launches them and gives the formulas).

A row of a tile is a segment of SEGMENT tokens of one sequence, its columns are channels. A program walks along its
segments token by token, all steps unrolled, and keeps the last tokens in registers: every token is loaded once by its
own segment and, as one of the few at a border, once more by a neighbour, whose load finds it in a cache.

Instructions are what these kernels take time for, so that the sigmoid of a 16-bit format is made of the GPU's own
exponential and quotient. In the forward pass, programs that follow each other hold neighbouring channels of the same
tokens, and a pointer to the first token of a segment moves on by a scalar; an H100 took longer for the backward pass
with either.
"""

import triton
import triton.language as tl

from optimized.kernels.elementary import quick_sigmoid_pair, sigmoid_pair
from optimized.kernels.precision import to_stored

__all__ = ["backward_kernel", "forward_kernel"]


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _load_taps(weight_pointer: tl.tensor, columns: tl.tensor, channels: tl.tensor, TAPS: tl.constexpr) -> tl.tuple:
    """Loads a ``(channels, TAPS)`` weight as one row of channels per tap, in float32."""
    taps = ()  # type: tuple[tl.tensor, ...]
    for tap in tl.static_range(TAPS):
        row = tl.load(weight_pointer + columns * TAPS + tap, mask=columns < channels, other=0.0)
        taps = taps + (row.to(tl.float32)[None, :],)  # noqa: RUF005  # Triton has no star in a tuple
    return taps


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _exists(behind: tl.tensor, ahead: tl.tensor, step: tl.constexpr) -> tl.tensor:
    """Returns whether the token ``step`` after the first of a segment is one of its sequence."""
    return (step >= -behind) & (step < ahead)


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _load_step(
    pointers: tl.tensor,
    mask_pointers: tl.tensor,
    step: tl.constexpr,
    stride: tl.tensor,
    behind: tl.tensor,
    ahead: tl.tensor,
    is_inside: tl.tensor,
    HAS_MASK: tl.constexpr,
) -> tl.tensor:
    """Loads one token of every row, times its mask, in float32; a token before the start or beyond the end is 0."""
    exists = _exists(behind, ahead, step)
    x = tl.load(pointers + tl.cast(step, tl.int64) * stride, mask=exists[:, None] & is_inside, other=0.0)
    x = x.to(tl.float32)
    if HAS_MASK:
        x *= tl.load(mask_pointers + step, mask=exists, other=0.0).to(tl.float32)[:, None]
    return x


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _load_token(
    pointers: tl.tensor,
    mask_pointers: tl.tensor,
    token: tl.tensor,
    stride: tl.tensor,
    tokens: tl.tensor,
    is_inside: tl.tensor,
    HAS_MASK: tl.constexpr,
) -> tl.tensor:
    """Loads one token of every row, times its mask, in float32; a token before the start or beyond the end is 0."""
    exists = (token >= 0) & (token < tokens)
    x = tl.load(pointers + token[:, None] * stride, mask=exists[:, None] & is_inside, other=0.0).to(tl.float32)
    if HAS_MASK:
        x *= tl.load(mask_pointers + token, mask=exists, other=0.0).to(tl.float32)[:, None]
    return x


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _dot(values: tl.tuple, taps: tl.tuple, COUNT: tl.constexpr) -> tl.tensor:
    """Returns ``sum_j values[j] taps[j]``, added in this order."""
    total = values[0] * taps[0]
    for index in tl.static_range(1, COUNT):
        total += values[index] * taps[index]
    return total


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _add_products(totals: tl.tuple, factor: tl.tensor, values: tl.tuple, COUNT: tl.constexpr) -> tl.tuple:
    """Returns ``totals[j] + factor values[j]``."""
    added = ()  # type: tuple[tl.tensor, ...]
    for index in tl.static_range(COUNT):
        added = added + (totals[index] + factor * values[index],)  # noqa: RUF005  # Triton has no star in a tuple
    return added


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def forward_kernel(
    x_pointer: tl.tensor,
    weight_pointer: tl.tensor,
    mask_pointer: tl.tensor,
    out_pointer: tl.tensor,
    x_strides: tl.tensor,
    num_rows: tl.tensor,
    segments: tl.tensor,
    tokens: tl.tensor,
    channels: tl.tensor,
    TAPS: tl.constexpr,
    HAS_MASK: tl.constexpr,
    IS_EXACT: tl.constexpr,
    INDEX: tl.constexpr,
    SEGMENT: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """One program: BLOCK_R segments of BLOCK_C channels; ``num_rows`` segments, ``segments`` in a sequence."""
    column_blocks = tl.cdiv(channels, BLOCK_C)
    row_block = tl.program_id(0) // column_blocks
    rows = tl.cast(row_block, INDEX) * BLOCK_R + tl.arange(0, BLOCK_R)
    columns = tl.cast(tl.program_id(0) % column_blocks, tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    is_inside = (rows < num_rows)[:, None] & (columns < channels)[None, :]
    batch, first = (rows // segments).to(tl.int64), (rows % segments).to(tl.int64) * SEGMENT
    behind = tl.minimum(first, SEGMENT + TAPS).to(tl.int32)
    ahead = tl.minimum(tokens - first, SEGMENT + TAPS).to(tl.int32)
    taps = _load_taps(weight_pointer, columns, channels, TAPS)
    x_pointers = x_pointer + (batch * x_strides[0] + first * x_strides[1])[:, None] + (columns * x_strides[2])[None, :]
    out_pointers = out_pointer + ((batch * tokens + first) * channels)[:, None] + columns[None, :]
    mask_pointers = mask_pointer
    if HAS_MASK:
        mask_pointers += tl.where(rows < num_rows, batch * tokens + first, 0)

    window = ()  # type: tuple[tl.tensor, ...]
    for before in tl.static_range(TAPS - 1):
        x = _load_step(x_pointers, mask_pointers, before - (TAPS - 1), x_strides[1], behind, ahead, is_inside, HAS_MASK)
        window = window + (x,)  # noqa: RUF005  # Triton has no star in a tuple
    for step in tl.static_range(SEGMENT):
        x = _load_step(x_pointers, mask_pointers, step, x_strides[1], behind, ahead, is_inside, HAS_MASK)
        window = window + (x,)  # noqa: RUF005  # Triton has no star in a tuple
        total = _dot(window, taps, TAPS)
        window = window[1:]
        if IS_EXACT:
            sigmoid, _ = sigmoid_pair(total)
        else:
            sigmoid, _ = quick_sigmoid_pair(total)
        out = to_stored(total * sigmoid, out_pointer)
        exists = _exists(behind, ahead, step)
        tl.store(out_pointers + tl.cast(step, tl.int64) * channels, out, mask=exists[:, None] & is_inside)


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def backward_kernel(
    x_pointer: tl.tensor,
    weight_pointer: tl.tensor,
    mask_pointer: tl.tensor,
    out_gradient_pointer: tl.tensor,
    gradient_pointer: tl.tensor,
    partials_pointer: tl.tensor,
    x_strides: tl.tensor,
    out_gradient_strides: tl.tensor,
    num_rows: tl.tensor,
    segments: tl.tensor,
    tokens: tl.tensor,
    channels: tl.tensor,
    TAPS: tl.constexpr,
    HAS_MASK: tl.constexpr,
    HAS_WEIGHT_GRADIENT: tl.constexpr,
    IS_EXACT: tl.constexpr,
    INDEX: tl.constexpr,
    SEGMENT: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """One program: the gradient of x in BLOCK_R segments of BLOCK_C channels, and the segments' part of dweight.

    The sum before the SiLU is computed again. A gradient of x needs the slopes of TAPS - 1 later tokens, so that a
    segment walks that far into the next one.
    """
    rows = tl.cast(tl.program_id(0), INDEX) * BLOCK_R + tl.arange(0, BLOCK_R)
    columns = tl.cast(tl.program_id(1), tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    is_inside = (rows < num_rows)[:, None] & (columns < channels)[None, :]
    batch, first = (rows // segments).to(tl.int64), (rows % segments).to(tl.int64) * SEGMENT
    taps = _load_taps(weight_pointer, columns, channels, TAPS)
    x_pointers = x_pointer + (batch * x_strides[0])[:, None] + (columns * x_strides[2])[None, :]
    out_gradient_pointers = (
        out_gradient_pointer + (batch * out_gradient_strides[0])[:, None] + (columns * out_gradient_strides[2])[None, :]
    )
    gradient_pointers = gradient_pointer + (batch * tokens * channels)[:, None] + columns[None, :]
    mask_pointers = mask_pointer
    if HAS_MASK:
        mask_pointers += tl.where(rows < num_rows, batch, 0) * tokens

    window = ()  # type: tuple[tl.tensor, ...]
    later = ()  # type: tuple[tl.tensor, ...]
    for before in tl.static_range(TAPS - 1):
        token = first + (before - (TAPS - 1))
        x = _load_token(x_pointers, mask_pointers, token, x_strides[1], tokens, is_inside, HAS_MASK)
        window = window + (x,)  # noqa: RUF005  # Triton has no star in a tuple
    weight_gradient = (tl.zeros([BLOCK_R, BLOCK_C], tl.float32),) * TAPS
    for step in tl.static_range(SEGMENT + TAPS - 1):
        token = first + step
        x = _load_token(x_pointers, mask_pointers, token, x_strides[1], tokens, is_inside, HAS_MASK)
        out_gradient = _load_token(
            out_gradient_pointers, mask_pointer, token, out_gradient_strides[1], tokens, is_inside, HAS_MASK=False
        )
        window = window + (x,)  # noqa: RUF005  # Triton has no star in a tuple
        total = _dot(window, taps, TAPS)
        if IS_EXACT:
            sigmoid, rest = sigmoid_pair(total)
        else:
            sigmoid, rest = quick_sigmoid_pair(total)
        # The sum beyond the end of a sequence still sees its last tokens, which may be infinite: 0 is put in its place.
        slope = tl.where((token < tokens)[:, None], out_gradient * sigmoid * (1.0 + total * rest), 0.0)
        later = later + (slope,)  # noqa: RUF005  # Triton has no star in a tuple
        if HAS_WEIGHT_GRADIENT and step < SEGMENT:
            weight_gradient = _add_products(weight_gradient, slope, window, TAPS)
        window = window[1:]
        if step >= TAPS - 1:
            token = first + (step - (TAPS - 1))
            exists = token < tokens
            gradient = _dot(later[::-1], taps, TAPS)
            if HAS_MASK:
                gradient *= tl.load(mask_pointers + token, mask=exists, other=0.0).to(tl.float32)[:, None]
            tl.store(
                gradient_pointers + (token * channels)[:, None],
                to_stored(gradient, gradient_pointer),
                mask=exists[:, None] & is_inside,
            )
            later = later[1:]
    if HAS_WEIGHT_GRADIENT:
        for tap in tl.static_range(TAPS):
            tl.store(
                partials_pointer + (tl.cast(tl.program_id(0), tl.int64) * TAPS + tap) * channels + columns,
                tl.sum(weight_gradient[tap], 0),
                mask=columns < channels,
            )
