r"""Gated delta rule in chunks, plain torch, differentiable by autograd.

A chunk of ``C`` tokens that starts from the state ``S`` writes the rows ``d`` that solve a triangular system,

    (I + A) d = beta (v - exp(g) K S),      A_ij = beta_i exp(g_i - g_j) (k_i . k_j)   for i > j,

with ``g`` the log decay summed from the chunk's start. Then

    out = scale (exp(g) Q S + M d),         M_ij = exp(g_i - g_j) (q_i . k_j)          for i >= j,
    S'  = exp(g_C) S + sum_j exp(g_C - g_j) k_j d_j^T.

``A``, ``M`` and the inverse ``T = (I + A)^-1`` of all chunks are computed at once; only the three lines with ``S`` go
from chunk to chunk. The residual ``v - exp(g) K S`` is formed before it is multiplied by ``T``, so that a key whose
value is already stored loses no digits. Exponents are sums over the tokens between ``j`` and ``i``, never a difference
of two sums from the start, which after one strong decay would have few digits left.

Source: Yang et al., "Parallelizing Linear Transformers with the Delta Rule over Sequence Length" (arXiv 2406.06484),
section 3, and "Gated Delta Networks" (arXiv 2412.06464), section 3.3.

Letters: ``B`` batch, ``T`` tokens, ``G`` query/key heads, ``H`` value heads, ``D`` query/key width, ``V`` value width,
``N`` packed sequences, ``C`` tokens of a chunk.
"""

from typing import NamedTuple

import torch
from torch.nn import functional

from optimized.delta_rule_call import L2_NORM_EPS, DeltaRuleOutput, accumulator_dtype, check_delta_rule_call

__all__ = ["chunked_delta_rule"]


class _Chunks(NamedTuple):
    """Everything of all chunks that does not depend on the state; leading axes ``(B, H, chunks)``."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    beta: torch.Tensor
    decay_from_start: torch.Tensor
    decay_to_end: torch.Tensor
    decay_of_chunk: torch.Tensor
    inverse: torch.Tensor
    attention: torch.Tensor


def chunked_delta_rule(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    log_decay: torch.Tensor | None,
    beta: torch.Tensor,
    *,
    scale: float,
    initial_state: torch.Tensor | None = None,
    normalize_qk: bool = False,
    cu_seqlens: torch.Tensor | None = None,
    chunk_size: int = 64,
    round_operands: bool = False,
) -> DeltaRuleOutput:
    """Gated delta rule, token after token: decay, delta write, read.

        S_t   = exp(log_decay_t) S_{t-1}
        S_t  += beta_t k_t (v_t - S_t^T k_t)^T
        out_t = scale S_t^T q_t

    Computes in float32, for float64 inputs in float64. Gradients flow to every tensor argument, from both results.

    Args:
        query: ``(B, T, G, D)``.
        key: ``(B, T, G, D)``.
        value: ``(B, T, H, V)``; value head ``h`` uses query/key head ``h // (H / G)``.
        log_decay: ``(B, T, H)``, or None for no decay.
        beta: ``(B, T, H)``.
        scale: factor of the output.
        initial_state: ``(B, H, D, V)`` before the first token, or None for zero; ``(N, H, D, V)`` with ``cu_seqlens``.
        normalize_qk: divide queries and keys by ``sqrt(sum x^2 + 1e-6)`` first.
        cu_seqlens: ``(N + 1,)`` offsets of sequences packed in a batch of one; an empty sequence is legal.
        chunk_size: tokens of a chunk; any positive number, the result does not depend on it but for rounding.
        round_operands: round the operands of the forward pass's matrix products to the dtype of ``query``, as a
            tensor core would. Gradients pass through this rounding unchanged.

    Returns:
        ``(out, final_state)``: ``(B, T, H, V)`` in the dtype of ``value`` and the state after the last token.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: arguments do not belong together, or ``chunk_size`` is not positive.
    """
    check_delta_rule_call(
        query, key, value, log_decay, beta, scale=scale, initial_state=initial_state, cu_seqlens=cu_seqlens
    )
    if chunk_size < 1:
        raise ValueError(f"chunk_size: got {chunk_size}, expected a positive number of tokens")
    arithmetic = accumulator_dtype(value.dtype)
    state = None if initial_state is None else initial_state.to(arithmetic)
    if state is None:
        sequences = query.shape[0] if cu_seqlens is None else cu_seqlens.numel() - 1
        state = query.new_zeros((sequences, value.shape[2], query.shape[3], value.shape[3]), dtype=arithmetic)
    queries, keys = (
        _spread_heads(x.to(arithmetic), heads=value.shape[2], is_normalized=normalize_qk) for x in (query, key)
    )
    values = value.to(arithmetic)
    rates = beta.to(arithmetic)
    decays = torch.zeros_like(rates) if log_decay is None else log_decay.to(arithmetic)
    operand_dtype = query.dtype if round_operands else arithmetic
    offsets = [0, query.shape[1]] if cu_seqlens is None else cu_seqlens.tolist()
    states = [state] if cu_seqlens is None else [state[i : i + 1] for i in range(len(state))]
    outs, ends = [], []
    for start, stop, begin in zip(offsets[:-1], offsets[1:], states, strict=True):
        tokens = slice(start, stop)
        parts = [x[:, tokens] for x in (queries, keys, values, decays, rates)]
        chunks = _prepare(*parts, chunk_size=chunk_size, operand_dtype=operand_dtype)
        out, end = _scan(chunks, begin, scale=scale, operand_dtype=operand_dtype)
        outs.append(out.flatten(2, 3).transpose(1, 2)[:, : stop - start])
        ends.append(end)
    return DeltaRuleOutput(torch.cat(outs, dim=1).to(value.dtype), torch.cat(ends))


def _spread_heads(x: torch.Tensor, *, heads: int, is_normalized: bool) -> torch.Tensor:
    if is_normalized:
        x = x * torch.rsqrt(x.square().sum(-1, keepdim=True) + L2_NORM_EPS)
    return x.repeat_interleave(heads // x.shape[2], dim=2)


def _prepare(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    log_decay: torch.Tensor,
    beta: torch.Tensor,
    *,
    chunk_size: int,
    operand_dtype: torch.dtype,
) -> _Chunks:
    query, key, value = (_split(x, chunk_size) for x in (query, key, value))
    log_decay, beta = (_split(x.unsqueeze(-1), chunk_size).squeeze(-1) for x in (log_decay, beta))
    token = torch.arange(chunk_size, device=query.device)
    is_before = token[:, None] > token
    # Row i, column j: the decays of the tokens j + 1 .. i, summed by themselves.
    between = torch.where(is_before, log_decay.unsqueeze(-1), 0.0).cumsum(-2)
    decay = torch.exp(between.masked_fill(token[:, None] < token, -torch.inf))
    rounded_key = _round(key, operand_dtype)
    coupling = beta.unsqueeze(-1) * decay * (rounded_key @ rounded_key.mT) * is_before
    identity = torch.eye(chunk_size, dtype=key.dtype, device=key.device)
    inverse = torch.linalg.solve_triangular(identity + coupling, identity, upper=False, unitriangular=True)
    return _Chunks(
        query=_round(query, operand_dtype),
        key=rounded_key,
        value=value,
        beta=beta.unsqueeze(-1),
        decay_from_start=torch.exp(log_decay.cumsum(-1)).unsqueeze(-1),
        decay_to_end=decay[..., -1, :].unsqueeze(-1),
        decay_of_chunk=torch.exp(log_decay.sum(-1))[..., None, None],
        inverse=_round(inverse, operand_dtype),
        attention=_round(decay * (_round(query, operand_dtype) @ rounded_key.mT), operand_dtype),
    )


def _scan(
    chunks: _Chunks, state: torch.Tensor, *, scale: float, operand_dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    outs = [chunks.value[:, :, :0]]
    for number in range(chunks.value.shape[2]):
        chunk = _Chunks(*(x[:, :, number] for x in chunks))
        operand = _round(state, operand_dtype)
        residual = chunk.beta * (chunk.value - chunk.decay_from_start * (chunk.key @ operand))
        delta = chunk.inverse @ _round(residual, operand_dtype)
        from_state = chunk.decay_from_start * (chunk.query @ operand)
        outs.append((scale * (from_state + chunk.attention @ _round(delta, operand_dtype))).unsqueeze(2))
        state = chunk.decay_of_chunk * state + chunk.key.mT @ _round(chunk.decay_to_end * delta, operand_dtype)
    return torch.cat(outs, dim=2), state


def _split(x: torch.Tensor, chunk_size: int) -> torch.Tensor:
    """Turns ``(B, T, H, width)`` into ``(B, H, chunks, C, width)``; tokens added at the end neither decay nor write."""
    padded = functional.pad(x.transpose(1, 2), (0, 0, 0, -x.shape[1] % chunk_size))
    B, H, tokens, width = padded.shape
    return padded.reshape(B, H, tokens // chunk_size, chunk_size, width)


def _round(x: torch.Tensor, operand_dtype: torch.dtype) -> torch.Tensor:
    if x.dtype == operand_dtype:
        return x
    return x + (x.to(operand_dtype).to(x.dtype) - x).detach()
