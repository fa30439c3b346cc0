"""Which tiles of keys a tile of queries sees, and the other way round; device code shared by the attention kernels.

A query ``t`` sits at key position ``t + S - T`` (``T`` query tokens, ``S`` key tokens, last aligned with last) and sees
the keys from ``left`` before to ``right`` after it. Seen from a key the same rule holds with ``left`` and ``right``
exchanged and the shift negated, so that one function cuts the loops of all kernels.
"""

import triton
import triton.language as tl

__all__ = ["add_bias", "effective_window", "hide_outside", "load_rows", "partner_tiles"]


def effective_window(
    window: tuple[int | None, int | None], *, num_queries: int, num_keys: int
) -> tuple[int | None, int | None]:
    """Returns the window with each side that hides nothing at these lengths replaced by None.

    The last query stands on the last key, so ``left`` hides nothing from ``num_keys - 1`` on; the first query stands
    ``num_queries - 1`` before the last key, so ``right`` hides nothing from there on. A huge window is thereby the very
    same program as no window, and its number fits an int32.
    """
    left, right = window
    return (
        None if left is None or left >= num_keys - 1 else left,
        None if right is None or right >= num_queries - 1 else right,
    )


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def partner_tiles(
    first: tl.tensor,
    last: tl.tensor,
    shift: tl.tensor,
    before: tl.tensor,
    after: tl.tensor,
    num_partners: tl.tensor,
    HAS_BEFORE: tl.constexpr,
    HAS_AFTER: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """Cuts the partners that tokens ``first`` to ``last`` see into tiles at multiples of ``BLOCK``.

    Token ``i`` sees the partners from ``i + shift - before`` to ``i + shift + after``. Returns
    ``(begin, full_begin, full_end, end)``: every tile in ``[full_begin, full_end)`` is seen in full by every token,
    those in ``[begin, full_begin)`` and ``[full_end, end)`` in part, and no token sees any other.
    """
    begin = 0
    full_begin = 0
    end = num_partners
    full_end = num_partners // BLOCK * BLOCK
    if HAS_BEFORE:
        begin = tl.maximum(first + shift - before, 0) // BLOCK * BLOCK
        full_begin = (tl.maximum(last + shift - before, 0) + BLOCK - 1) // BLOCK * BLOCK
    if HAS_AFTER:
        end = tl.minimum(tl.maximum(last + shift + after + 1, 0), num_partners)
        full_end = tl.minimum(tl.maximum(first + shift + after + 1, 0), num_partners) // BLOCK * BLOCK
    # Where no tile is seen in full, the two partial ranges must meet without a gap or an overlap.
    full_begin = tl.maximum(tl.minimum(full_begin, (end + BLOCK - 1) // BLOCK * BLOCK), begin)
    full_end = tl.maximum(full_end, full_begin)
    return begin, full_begin, full_end, end


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def hide_outside(
    logits: tl.tensor,
    distance: tl.tensor,
    left: tl.tensor,
    right: tl.tensor,
    HAS_LEFT: tl.constexpr,
    HAS_RIGHT: tl.constexpr,
) -> tl.tensor:
    """Sets logits to -inf where ``distance`` (key minus position of the query) leaves the window."""
    if HAS_LEFT:
        logits = tl.where(distance + left >= 0, logits, float("-inf"))
    if HAS_RIGHT:
        logits = tl.where(distance <= right, logits, float("-inf"))
    return logits


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def add_bias(logits: tl.tensor, pointers: tl.tensor, is_seen: tl.tensor) -> tl.tensor:
    """Adds the bias of the pairs ``is_seen`` to logits in base 2."""
    return logits + tl.load(pointers, mask=is_seen, other=0.0).to(tl.float32) * 1.4426950408889634


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def load_rows(
    pointer: tl.tensor,
    is_row: tl.tensor,
    row_stride: tl.tensor,
    column_stride: tl.tensor,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    MASKED: tl.constexpr,
    IS_ALIGNED: tl.constexpr,
) -> tl.tensor:
    """Loads a ``(ROWS, BLOCK)`` tile; rows that are not ``is_row`` (if MASKED) and columns from WIDTH on are 0.

    IS_ALIGNED says that every row starts at a multiple of 16 bytes, which Triton sees only of strides that are
    multiples of 16 themselves; without it a head of width 72 would be loaded number by number.
    """
    columns = tl.arange(0, BLOCK)
    rows = tl.arange(0, ROWS).to(tl.int64)
    pointers = pointer + rows[:, None] * row_stride + columns.to(tl.int64)[None, :] * column_stride
    if IS_ALIGNED:
        pointers = tl.multiple_of(pointers, [1, 16])
    if MASKED:
        return tl.load(pointers, mask=is_row[:, None] & (columns < WIDTH)[None, :], other=0.0)
    else:  # noqa: RET505  # triton needs both branches of a compile-time choice
        return tl.load(pointers, mask=(columns < WIDTH)[None, :], other=0.0)
