"""Backward kernel that carries the cotangent of the gated delta rule's state from the last chunk to the first.

With ``dO`` the cotangent of the output and ``dS'`` that of the state after a chunk,

    dd = M^T dO + exp(g_C - g) K dS',        dr = (I + A)^-T dd,        dv = beta dr,
    dS = exp(g_C) dS' + scale (exp(g) Q)^T dO - K^T (beta exp(g) dr).

The other gradients follow chunk by chunk in ``gradient.py``. Roundings to the storage format: operands
of matrix products and the stored gradients; ``dS'`` stays float32, also where it is stored. The transposes of ``M`` and
of the inverse are loads, never the transpose of a product: Triton 3.4 to 3.7.0 permutes rows of those on Hopper (fla
issue 640).

Letters: ``B`` batch, ``T`` tokens, ``G`` query/key heads, ``H`` value heads, ``D`` query/key width, ``V`` value width,
``C`` tokens of a chunk.
"""

import triton
import triton.language as tl

from optimized.kernels.delta_rule.forward import load_tile
from optimized.kernels.precision import to_operand, to_stored

__all__ = ["carry_cotangent_kernel"]


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def carry_cotangent_kernel(
    query: tl.tensor,
    key: tl.tensor,
    beta: tl.tensor,
    from_start: tl.tensor,
    to_end: tl.tensor,
    inverse: tl.tensor,
    attention: tl.tensor,
    out_gradient: tl.tensor,
    final_gradient: tl.tensor,
    state_gradients: tl.tensor,
    residual_gradient: tl.tensor,
    value_gradient: tl.tensor,
    initial_gradient: tl.tensor,
    query_strides: tl.tensor,
    key_strides: tl.tensor,
    out_strides: tl.tensor,
    scale: float,
    T: int,
    H: int,
    num_chunks: int,
    HEADS_PER_KEY: tl.constexpr,
    D: tl.constexpr,
    V: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
    HAS_INITIAL: tl.constexpr,
    DTYPE: tl.constexpr,
    INTERPRETED: tl.constexpr,
) -> None:
    """Goes back through the chunks of one head with ``BLOCK_V`` columns of its state's cotangent.

    Stores the cotangent after every chunk ``(B, H, chunks, D, V)``, ``dr (B, H, chunks * C, V)``, the gradient of the
    values and that of the initial state.
    """
    column_blocks = tl.cdiv(V, BLOCK_V)
    program = tl.cast(tl.program_id(0), tl.int64)
    first_column = (program % column_blocks) * BLOCK_V
    sequence = program // column_blocks
    head = sequence % H
    batch = sequence // H
    key_head = head // HEADS_PER_KEY
    key_base = key + batch * key_strides[0] + key_head * key_strides[2]
    query_base = query + batch * query_strides[0] + key_head * query_strides[2]
    out_base = out_gradient + batch * out_strides[0] + head * out_strides[2]
    token = tl.arange(0, CHUNK)
    columns = first_column + tl.arange(0, BLOCK_V)
    channels = tl.arange(0, BLOCK_D)
    in_state = (channels < D)[:, None] & (columns < V)[None, :]
    state_offsets = channels[:, None] * V + columns[None, :]
    cotangent = tl.load(final_gradient + sequence * D * V + state_offsets, mask=in_state, other=0.0)
    for step in range(num_chunks):
        chunk = tl.cast(num_chunks - 1 - step, tl.int64)
        place = sequence * num_chunks + chunk
        rows = chunk * CHUNK + token
        keys = load_tile(key_base, chunk * CHUNK, T, key_strides[1], 0, key_strides[3], CHUNK, D, BLOCK_D)
        queries = load_tile(query_base, chunk * CHUNK, T, query_strides[1], 0, query_strides[3], CHUNK, D, BLOCK_D)
        out_rows = load_tile(
            out_base, chunk * CHUNK, T, out_strides[1], first_column, out_strides[3], CHUNK, V, BLOCK_V
        )
        rates = tl.load(beta + (batch * T + rows) * H + head, mask=rows < T, other=0.0).to(tl.float32)[:, None]
        decay = tl.exp(tl.load(from_start + place * CHUNK + token))[:, None]
        remaining = tl.exp(tl.load(to_end + place * CHUNK + token))[:, None]
        whole = tl.exp(tl.load(from_start + place * CHUNK + CHUNK - 1))
        transposed = place * CHUNK * CHUNK + token[None, :] * CHUNK + token[:, None]
        tl.store(state_gradients + place * D * V + state_offsets, cotangent, mask=in_state)
        operand = to_operand(cotangent, DTYPE, INTERPRETED)
        written = remaining * tl.dot(keys, operand, input_precision="ieee")
        written += tl.dot(tl.load(attention + transposed), out_rows, input_precision="ieee")
        written = to_operand(written, DTYPE, INTERPRETED)
        residual = tl.dot(tl.load(inverse + transposed), written, input_precision="ieee")
        in_chunk = (columns < V)[None, :] & (token >= 0)[:, None]
        residual_offsets = (place * CHUNK + token)[:, None] * V + columns[None, :]
        rounded = to_stored(to_operand(residual, DTYPE, INTERPRETED), residual_gradient)
        tl.store(residual_gradient + residual_offsets, rounded, mask=in_chunk)
        value_offsets = ((batch * T + rows) * H + head)[:, None] * V + columns[None, :]
        value_rows = to_stored(rates * residual, value_gradient)
        tl.store(value_gradient + value_offsets, value_rows, mask=in_chunk & (rows < T)[:, None])
        read = to_operand(scale * decay * out_rows.to(tl.float32), DTYPE, INTERPRETED)
        erased = to_operand(-rates * decay * residual, DTYPE, INTERPRETED)
        cotangent = whole * cotangent + tl.dot(tl.trans(queries), read, input_precision="ieee")
        cotangent += tl.dot(tl.trans(keys), erased, input_precision="ieee")
    if HAS_INITIAL:
        offsets = sequence * D * V + state_offsets
        tl.store(initial_gradient + offsets, to_stored(cotangent, initial_gradient), mask=in_state)
