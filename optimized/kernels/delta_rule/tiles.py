"""What the kernels of the gated delta rule share: where a chunk lies, loads of its tiles, decays between its tokens.

The channels of queries, keys and states are held in pieces of ``BLOCK_D``, a tuple of tiles: a width that is no power
of two then wastes at most a piece, and the sum over channels of an exact float32 product, which a thread holds in
registers, is short. Where a chunk starts is a scalar of 64 bits, added to a pointer; offsets inside a tile have 32 bits
(``launch.as_inputs`` sees to it that they suffice), since the compiler keeps them in registers.

Letters: ``B`` batch, ``T`` tokens, ``D`` query/key width, ``V`` value width, ``C`` tokens of a chunk.
"""

import triton
import triton.language as tl

from optimized.kernels.precision import to_operand

__all__ = [
    "chunk_decay",
    "load_factors",
    "load_operand",
    "load_state",
    "load_tile",
    "locate_chunk",
    "locate_sequence",
    "place_state",
    "rows_inside",
    "through_norm",
]


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def locate_sequence(
    sequences: tl.tensor, sequence: tl.tensor, T: int, CHUNK: tl.constexpr, IS_PACKED: tl.constexpr
) -> tl.tensor:
    """Returns the batch row of a sequence, its first token, where it stops, and the number of its first chunk."""
    if IS_PACKED:
        batch = sequence * 0
        first = tl.load(sequences + 3 * sequence)
        stop = tl.load(sequences + 3 * sequence + 1)
        first_chunk = tl.load(sequences + 3 * sequence + 2)
    else:
        batch = sequence
        first = sequence * 0
        stop = first + T
        first_chunk = sequence * tl.cdiv(T, CHUNK)
    return batch, first, stop, first_chunk


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def locate_chunk(
    chunks: tl.tensor, chunk: tl.tensor, T: int, CHUNK: tl.constexpr, IS_PACKED: tl.constexpr
) -> tl.tensor:
    """Returns the batch row of a chunk, its first token, and where its sequence stops."""
    if IS_PACKED:
        batch = chunk * 0
        first = tl.load(chunks + 2 * chunk)
        stop = tl.load(chunks + 2 * chunk + 1)
    else:
        count = tl.cdiv(T, CHUNK)
        batch = chunk // count
        first = (chunk % count) * CHUNK
        stop = first * 0 + T
    return batch, first, stop


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def rows_inside(token: tl.tensor, first: tl.tensor, stop: tl.tensor, CHUNK: tl.constexpr) -> tl.tensor:
    """Returns which tokens of a chunk that starts at ``first`` lie before ``stop``."""
    return token < tl.cast(tl.minimum(stop - first, CHUNK), tl.int32)


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def load_tile(
    base: tl.tensor,
    token: tl.tensor,
    is_row: tl.tensor,
    row_stride: tl.tensor,
    first_column: tl.tensor,
    column_stride: tl.tensor,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> tl.tensor:
    """Loads ``COLUMNS`` columns of a chunk's rows, of which ``base`` points to the first; 0 outside of the matrix."""
    columns = first_column + tl.arange(0, COLUMNS)
    is_inside = is_row[:, None] & (columns < WIDTH)[None, :]
    return tl.load(base + (token[:, None] * row_stride + columns[None, :] * column_stride), mask=is_inside, other=0.0)


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def load_operand(
    base: tl.tensor,
    token: tl.tensor,
    is_row: tl.tensor,
    row_stride: tl.tensor,
    first_column: tl.tensor,
    column_stride: tl.tensor,
    factors: tl.tensor,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    IS_NORMALIZED: tl.constexpr,
    DTYPE: tl.constexpr,
    INTERPRETED: tl.constexpr,
) -> tl.tensor:
    """Loads queries or keys as operands, times the ``factors`` of their rows if they are to be normalised."""
    x = load_tile(base, token, is_row, row_stride, first_column, column_stride, WIDTH, COLUMNS)
    if IS_NORMALIZED:
        x = to_operand(x.to(tl.float32) * factors[:, None], DTYPE, INTERPRETED)
    return x


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def load_factors(
    norms: tl.tensor, first_row: tl.tensor, token: tl.tensor, is_row: tl.tensor, key_heads: tl.tensor,
    key_head: tl.tensor, IS_NORMALIZED: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Loads the factors that normalise rows of queries or keys, 0 beyond the sequence; 1 if nothing is normalised."""
    if IS_NORMALIZED:
        factors = tl.load(norms + (first_row * key_heads + key_head) + token * key_heads, mask=is_row, other=0.0)
    else:
        factors = tl.where(is_row, 1.0, 0.0)
    return factors


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def place_state(
    first_channel: tl.tensor,
    first_column: tl.tensor,
    D: tl.constexpr,
    V: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
) -> tl.tensor:
    """Returns offsets into a contiguous ``(D, V)`` state for one of its tiles, and the mask of what lies inside."""
    channels = first_channel + tl.arange(0, BLOCK_D)
    columns = first_column + tl.arange(0, BLOCK_V)
    return channels[:, None] * V + columns[None, :], (channels < D)[:, None] & (columns < V)[None, :]


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def load_state(
    base: tl.tensor,
    first_channel: tl.tensor,
    first_column: tl.tensor,
    D: tl.constexpr,
    V: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
) -> tl.tensor:
    """Loads one tile of a contiguous ``(D, V)`` state in float32; 0 outside of it."""
    offsets, is_inside = place_state(first_channel, first_column, D, V, BLOCK_D, BLOCK_V)
    return tl.load(base + offsets, mask=is_inside, other=0.0).to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def chunk_decay(log_decay: tl.tensor, CHUNK: tl.constexpr) -> tl.tensor:
    """Returns the sums of the log decays of tokens ``j + 1 .. i`` in row ``i``, column ``j``, and -inf where i < j.

    Each sum is of its own tokens: a difference of two sums from the start loses the digits of a small one behind a
    large one, is positive where it must not be used, and is NaN for a decay to zero.
    """
    row = tl.arange(0, CHUNK)[:, None]
    column = tl.arange(0, CHUNK)[None, :]
    sums = tl.cumsum(tl.where(row > column, log_decay[:, None], 0.0), axis=0)
    return tl.where(row >= column, sums, float("-inf"))


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def through_norm(
    gradient: tl.tensor,
    base: tl.tensor,
    token: tl.tensor,
    is_row: tl.tensor,
    row_stride: tl.tensor,
    column_stride: tl.tensor,
    factors: tl.tensor,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    PIECES: tl.constexpr,
) -> tl.tensor:
    """Turns pieces of the gradient of normalised rows into those of the rows: ``(dy - y (y . dy)) / sqrt(...)``."""
    along = tl.zeros_like(factors)
    for piece in tl.static_range(PIECES):
        x = load_tile(base, token, is_row, row_stride, piece * COLUMNS, column_stride, WIDTH, COLUMNS).to(tl.float32)
        along += tl.sum(x * factors[:, None] * gradient[piece], axis=1)
    result: tl.tuple = ()
    for piece in tl.static_range(PIECES):
        x = load_tile(base, token, is_row, row_stride, piece * COLUMNS, column_stride, WIDTH, COLUMNS).to(tl.float32)
        normalized = x * factors[:, None]
        result = result + (factors[:, None] * (gradient[piece] - normalized * along[:, None]),)  # noqa: RUF005 (Triton builds no starred tuples)
    return result
