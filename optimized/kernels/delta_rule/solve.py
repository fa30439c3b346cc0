"""Forward kernel that inverts the unit lower triangular ``I + A`` of every chunk of the gated delta rule.

It also sums the decays and computes the factors that normalise keys. A chunk is a triangle of tiles of 16 by 16 tokens,
and a program is a single warp: tiles above the diagonal are never formed, and a matrix instruction of four warps, which
has 64 rows, would do eight times the arithmetic. An exponent is a sum of its own tokens, never a difference of two sums
from the start: inside a tile of the diagonal as such, elsewhere in three parts, from the start of the row's tile, of
the tiles in between, and to the end of the column's tile. Such sums are products with a triangle of ones: for a running
sum, Triton 3.6 takes carries from the wrong lane in the layout that keys are loaded in, where lanes repeat others.

Products of keys are of the stored ones, and a sum over the channels of a row is multiplied by the row's factor
afterwards. Rounding to the storage format: the stored inverse, which is an operand of the next kernels. Formulas and
source are in ``chunked_delta_rule.py``.

Letters: ``B`` batch, ``T`` tokens, ``G`` query/key heads, ``H`` value heads, ``D`` query/key width, ``C`` tokens of a
chunk.
"""

import triton
import triton.language as tl

from optimized.kernels.delta_rule.tiles import load_tile, locate_chunk, rows_inside
from optimized.kernels.precision import to_operand, to_stored

__all__ = ["solve_kernel"]

_TILE = tl.constexpr(16)
_LEAST = tl.constexpr(-1e30)


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def unit_lower_inverses(couplings: tl.tuple, COUNT: tl.constexpr, PRECISION: tl.constexpr) -> tl.tuple:
    """Returns ``(I + coupling)^-1`` of the first ``COUNT`` tiles, each strictly lower triangular.

    Seven eliminations solve both halves of a tile's diagonal at once; from their inverses ``L11`` and ``L22`` follows
    the lower left quarter ``-L22 A21 L11``. The errors are those of substitution. A product of powers,
    ``(I - A)(I + A^2)(I + A^4)...``, would need no elimination but fails for near-parallel keys: entries of powers grow
    like binomial coefficients where the inverse's stay below 1.
    """
    HALF: tl.constexpr = _TILE // 2
    row = tl.arange(0, _TILE)[:, None]
    column = tl.arange(0, _TILE)[None, :]
    is_in_half = (row // HALF) == (column // HALF)
    halves: tl.tuple = ()
    solved: tl.tuple = ()
    for tile in tl.static_range(COUNT):
        halves = halves + (tl.where(is_in_half, couplings[tile], 0.0),)  # noqa: RUF005 (Triton builds no starred tuples)
        solved = solved + (tl.where(row == column, 1.0, tl.zeros((_TILE, _TILE), dtype=tl.float32)),)  # noqa: RUF005 (Triton builds no starred tuples)
    for pivot in range(HALF - 1):
        further: tl.tuple = ()
        for tile in tl.static_range(COUNT):
            left = tl.sum(tl.where(column % HALF == pivot, halves[tile], 0.0), axis=1)
            right = tl.sum(tl.where(row % HALF == pivot, solved[tile], 0.0), axis=0)
            eliminated = tl.where(is_in_half, solved[tile] - left[:, None] * right[None, :], 0.0)
            further = further + (eliminated,)  # noqa: RUF005 (Triton builds no starred tuples)
        solved = further
    inverses: tl.tuple = ()
    for tile in tl.static_range(COUNT):
        quarter = tl.dot(tl.where(is_in_half, 0.0, couplings[tile]), solved[tile], input_precision=PRECISION)
        inverse = solved[tile] - tl.dot(solved[tile], quarter, input_precision=PRECISION)
        inverses = inverses + (inverse,)  # noqa: RUF005 (Triton builds no starred tuples)
    return inverses


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def solve_kernel(  # noqa: C901, PLR0912, PLR0915 (a kernel is one function: what it holds stays in registers)
    key: tl.tensor,
    log_decay: tl.tensor,
    beta: tl.tensor,
    chunks: tl.tensor,
    from_start: tl.tensor,
    to_end: tl.tensor,
    rates: tl.tensor,
    inverse: tl.tensor,
    key_norms: tl.tensor,
    key_strides: tl.tensor,
    T: int,
    H: int,
    HEADS_PER_KEY: tl.constexpr,
    D: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_D: tl.constexpr,
    NORM_EPS: tl.constexpr,
    SOLVE_PRECISION: tl.constexpr,
    IS_PACKED: tl.constexpr,
    DTYPE: tl.constexpr,
    INTERPRETED: tl.constexpr,
) -> None:
    """Stores summed decays and beta ``(chunks, H, C)`` and the inverse ``(chunks, H, C, C)`` of one chunk and head.

    With ``NORM_EPS`` the first head of a group also stores the factors of the keys, ``(B, T, G)``.
    """
    TILES: tl.constexpr = CHUNK // _TILE
    # Beside a factor of 1, two parts of 11 bits are all but the last two bits of a decay.
    DECAY_PRECISION: tl.constexpr = "ieee" if SOLVE_PRECISION == "ieee" else "tf32x3"
    program = tl.cast(tl.program_id(0), tl.int64)
    head = program % H
    key_head = head // HEADS_PER_KEY
    batch, first, stop = locate_chunk(chunks, program // H, T, CHUNK, IS_PACKED)
    row = tl.arange(0, _TILE)
    is_later = row[:, None] > row[None, :]
    is_reached = row[:, None] >= row[None, :]
    first_row = batch * T + first
    gate = first_row * H + head
    key_base = key + batch * key_strides[0] + key_head * key_strides[2] + first * key_strides[1]
    overlaps: tl.tuple = ()
    squares: tl.tuple = ()
    for i in tl.static_range(TILES):
        squares = squares + (tl.zeros((_TILE,), dtype=tl.float32),)  # noqa: RUF005 (Triton builds no starred tuples)
        for _ in tl.static_range(i + 1):
            overlaps = overlaps + (tl.zeros((_TILE, _TILE), dtype=tl.float32),)  # noqa: RUF005 (Triton builds no starred tuples)
    for channel in range(0, D, BLOCK_D):
        keys: tl.tuple = ()
        larger: tl.tuple = ()
        longer: tl.tuple = ()
        for i in tl.static_range(TILES):
            token = row + _TILE * i
            is_row = rows_inside(token, first, stop, CHUNK)
            tile = load_tile(key_base, token, is_row, key_strides[1], channel, key_strides[3], D, BLOCK_D)
            keys = keys + (tile,)  # noqa: RUF005 (Triton builds no starred tuples)
            for j in tl.static_range(i + 1):
                total = tl.dot(tile, tl.trans(keys[j]), overlaps[i * (i + 1) // 2 + j], input_precision="ieee")
                larger = larger + (total,)  # noqa: RUF005 (Triton builds no starred tuples)
            if NORM_EPS > 0:
                total = squares[i] + tl.sum(tile.to(tl.float32) * tile.to(tl.float32), axis=1)
                longer = longer + (total,)  # noqa: RUF005 (Triton builds no starred tuples)
        overlaps = larger
        if NORM_EPS > 0:
            squares = longer
    sums = program * CHUNK
    before: tl.tuple = ()
    after: tl.tuple = ()
    whole: tl.tuple = ()
    right: tl.tuple = ()
    couplings: tl.tuple = ()
    diagonal: tl.tuple = ()
    for i in tl.static_range(TILES):
        token = row + _TILE * i
        is_row = rows_inside(token, first, stop, CHUNK)
        decays = tl.load(log_decay + gate + token * H, mask=is_row, other=0.0).to(tl.float32)
        left = tl.load(beta + gate + token * H, mask=is_row, other=0.0).to(tl.float32)
        tl.store(rates + sums + token, left)
        # A decay to zero is finite here, whose product with 0 is 0.
        own = tl.where(is_later, tl.maximum(decays, _LEAST)[:, None], 0.0)
        between = tl.dot(tl.where(is_reached, 1.0, 0.0), own, input_precision=DECAY_PRECISION)
        weights = tl.where(is_later, tl.exp(between), 0.0)
        before = before + (tl.sum(tl.where(is_reached, decays[None, :], 0.0), axis=1),)  # noqa: RUF005 (Triton builds no starred tuples)
        after = after + (tl.sum(tl.where(row[:, None] == _TILE - 1, between, 0.0), axis=0),)  # noqa: RUF005 (Triton builds no starred tuples)
        whole = whole + (tl.sum(decays, axis=0),)  # noqa: RUF005 (Triton builds no starred tuples)
        if NORM_EPS > 0:
            factors = 1.0 / tl.sqrt_rn(squares[i] + NORM_EPS)
            if head % HEADS_PER_KEY == 0:
                key_heads = H // HEADS_PER_KEY
                tl.store(key_norms + (first_row * key_heads + key_head) + token * key_heads, factors, mask=is_row)
            left *= factors
            weights *= factors[None, :]
            right = right + (factors * tl.exp(after[i]),)  # noqa: RUF005 (Triton builds no starred tuples)
        else:
            right = right + (tl.exp(after[i]),)  # noqa: RUF005 (Triton builds no starred tuples)
        for j in tl.static_range(i):
            exponent = before[i]
            for k in tl.static_range(j + 1, i):
                exponent += whole[k]
            coupling = (left * tl.exp(exponent))[:, None] * right[j][None, :] * overlaps[i * (i + 1) // 2 + j]
            couplings = couplings + (coupling,)  # noqa: RUF005 (Triton builds no starred tuples)
        diagonal = diagonal + (left[:, None] * weights * overlaps[i * (i + 1) // 2 + i],)  # noqa: RUF005 (Triton builds no starred tuples)
        couplings = couplings + (diagonal[i],)  # noqa: RUF005 (Triton builds no starred tuples)
    for i in tl.static_range(TILES):
        start, end = before[i], after[i]
        for j in tl.static_range(i):
            start += whole[j]
        for j in tl.static_range(i + 1, TILES):
            end += whole[j]
        tl.store(from_start + sums + row + _TILE * i, start)
        tl.store(to_end + sums + row + _TILE * i, end)
    solved = unit_lower_inverses(diagonal, TILES, SOLVE_PRECISION)
    corner = inverse + program * CHUNK * CHUNK
    square = row[:, None] * CHUNK + row[None, :]
    for j in tl.static_range(TILES):
        column: tl.tuple = ()
        for i in tl.static_range(j, TILES):
            if i == j:
                tile = solved[j]
            else:
                reached = tl.dot(couplings[i * (i + 1) // 2 + j], column[0], input_precision=SOLVE_PRECISION)
                for k in tl.static_range(j + 1, i):
                    left = couplings[i * (i + 1) // 2 + k]
                    reached = tl.dot(left, column[k - j], reached, input_precision=SOLVE_PRECISION)
                tile = -tl.dot(solved[i], reached, input_precision=SOLVE_PRECISION)
                nothing = to_stored(tl.zeros((_TILE, _TILE), dtype=tl.float32), inverse)
                tl.store(corner + _TILE * (j * CHUNK + i) + square, nothing)
            column = column + (tile,)  # noqa: RUF005 (Triton builds no starred tuples)
            rounded = to_stored(to_operand(tile, DTYPE, INTERPRETED), inverse)
            tl.store(corner + _TILE * (i * CHUNK + j) + square, rounded)
