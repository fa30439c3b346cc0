r"""The gated delta rule as a fast kernel computes it: in chunks, with the WY representation, forward and backward.

A chunk of ``C`` tokens starts from the state ``S``; ``g_i`` is the log decay summed from its start to token ``i``:

    A_ij = beta_i exp(g_i - g_j) (k_i . k_j)  for i > j        the coupling of the chunk's writes
    M_ij = exp(g_i - g_j) (q_i . k_j)         for i >= j       the scores of its reads
    X    = (I + A)^-1                                          the solved inverse
    W    = X diag(beta exp(g)) K,   U = X diag(beta) V,   R = U - W S
    out  = scale (diag(exp(g)) Q S + M R)
    S'   = exp(g_C) S + K^T diag(exp(g_C - g)) R

The chunk length is the arithmetic's tile (at most 128), and it matters to the roundings: run an ensemble over several.

Rounded as matrix operands, forward and backward: X, W, R, M, S, the decayed R of the state update, and the gradient of
every product; so are gradients of X and A (``dA = -X^T dX X^T``, two products). U, the two parts of a key's gradient,
the local part of R's gradient, normalised queries and keys, and gradients of repeated heads are stored between
kernels, as in flash-linear-attention. The carried state and its gradient stay in the accumulator's format; their noise
is that of one rounding per token that is still remembered, so that a token-by-token recurrence is covered. The gate is
summed with one rounding per token, each exponent is a sum that rounds by itself, and each token's own exponential may
be off by the recipe's ``exp_error``.
Element-wise factors are otherwise exact: the sums that follow them round more.

Source: Yang et al., "Parallelizing Linear Transformers with the Delta Rule over Sequence Length" (arXiv 2406.06484),
section 3, and "Gated Delta Networks" (arXiv 2412.06464), section 3.3.

Letters: ``K`` samples, ``B`` batch, ``T`` tokens, ``G`` query/key heads, ``H`` value heads, ``D`` query/key width,
``V`` value width, ``N`` chunks, ``C`` tokens of a chunk.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from harness.emulators.arithmetic import Arithmetic, shared
from harness.emulators.delta_rule_gate import MAX_CHUNK, decays, on_the_sides, summed_gate
from harness.emulators.delta_rule_points import (
    chunks,
    gradient_in_storage,
    join,
    multiply,
    operand,
    rounds_operands,
    scaled_operand,
)
from harness.emulators.delta_rule_state import inverse, read_locally, update_state
from harness.emulators.rounding import FORMAT_BITS, unit

__all__ = ["emulate"]

_L2_NORM_EPS = 1e-6


def emulate(arithmetic: Arithmetic, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns ``out`` and ``final_state`` of every sample, before they are stored.

    Args:
        arithmetic: formats, roundings and, as ``tile``, the chunk length.
        tensors: ``query``, ``key`` ``(K, B, T, G, D)``, ``value`` ``(K, B, T, H, V)``, ``beta`` ``(K, B, T, H)`` and,
            where given, ``log_decay`` ``(K, B, T, H)``, ``initial_state`` ``(K, B, H, D, V)`` and ``cu_seqlens``
            ``(N + 1,)``; for packed sequences the states are ``(K, N, H, D, V)``.
        options: ``scale`` and, where given, ``normalize_qk``.

    Returns:
        ``{"out": (K, B, T, H, V), "final_state": (K, B, H, D, V)}``.
    """
    value, beta = tensors["value"], tensors["beta"]
    query, key = tensors["query"], tensors["key"]
    if options.get("normalize_qk", False):
        query, key = _normalize(arithmetic, "query", query), _normalize(arithmetic, "key", key)
    log_decay = tensors.get("log_decay")
    if log_decay is None:
        log_decay = torch.zeros_like(shared(beta)).expand_as(beta)
    cu_seqlens = tensors.get("cu_seqlens")
    offsets = [0, value.shape[2]] if cu_seqlens is None else [int(offset) for offset in cu_seqlens.tolist()]
    state = tensors.get("initial_state")
    if state is None:
        sequences = value.shape[1] if cu_seqlens is None else len(offsets) - 1
        state = value.new_zeros((1, sequences, value.shape[3], query.shape[4], value.shape[4]))
        state = arithmetic.all_samples(state)
    states = [state] if cu_seqlens is None else [state[:, n : n + 1] for n in range(len(offsets) - 1)]
    outs, ends = [], []
    for start, stop, begin in zip(offsets[:-1], offsets[1:], states, strict=True):
        end = begin
        if stop > start:
            query_part, key_part, value_part, decay_part, beta_part = (
                x[:, :, start:stop] for x in (query, key, value, log_decay, beta)
            )
            out, end = _sequence(
                arithmetic, query_part, key_part, value_part, decay_part, beta_part, begin, scale=options["scale"]
            )
            outs.append(out)
        ends.append(end)
    return {"out": torch.cat(outs, dim=2) if outs else torch.zeros_like(value), "final_state": torch.cat(ends, dim=1)}


def _normalize(arithmetic: Arithmetic, point: str, x: Tensor) -> Tensor:
    squares = arithmetic.sum(f"{point}.squares", x * x, -1, keepdim=True)
    norm = torch.rsqrt(squares + _L2_NORM_EPS)
    norm = arithmetic.approximate(f"{point}.rsqrt", norm, 2 * unit(arithmetic.recipe.accumulator))
    normalized = x * arithmetic.spread(f"{point}.norm", norm, x.shape)
    if not rounds_operands(arithmetic):
        return arithmetic.wide(f"{point}.normalized", normalized)
    return arithmetic.store(f"{point}.normalized", normalized)


def _sequence(
    arithmetic: Arithmetic,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    state: Tensor,
    *,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Returns ``out (K, B, T, H, V)`` and the final state of sequences that all start at the first token."""
    tokens, heads = value.shape[2:4]
    # One token is computed as two, as a part of a longer tile: what cancels in real numbers then cancels inexactly.
    length = min(max(arithmetic.tile, 1), MAX_CHUNK, max(tokens, 2))
    log_decay = summed_gate(arithmetic, "gate", log_decay)
    query, key, value = (
        chunks(arithmetic, f"{name}.heads", x, heads=heads, length=length)
        for name, x in (("query", query), ("key", key), ("value", value))
    )
    gate, rate = (
        chunks(arithmetic, name, x.unsqueeze(-1), heads=heads, length=length)
        for name, x in (("gate", log_decay), ("beta", beta))
    )
    # Two kernels give a key's gradient: that of the scan, and that of the inverse and what it multiplies.
    read_key = _stored_operand(arithmetic, "key", gradient_in_storage(arithmetic, "key.scan", key))
    written_key = _stored_operand(arithmetic, "key", gradient_in_storage(arithmetic, "key.inverse", key))
    query, value = _stored_operand(arithmetic, "query", query), _stored_operand(arithmetic, "value", value)

    gate, query, (read_key, written_key) = on_the_sides(
        arithmetic, "gate.sides", gate.cumsum(-2), query, (read_key, written_key)
    )
    last = gate[..., -1:, :]
    from_start = decays(arithmetic, "decay.from_start", gate, terms=length)
    to_end = decays(arithmetic, "decay.to_end", arithmetic.spread("gate.last", last, gate.shape) - gate, terms=length)
    over_chunk = decays(arithmetic, "decay.over_chunk", last, terms=length)
    between = _decay_between(arithmetic, gate)

    w, u = _written(arithmetic, written_key, value, rate, from_start, between)
    states, residuals, state = _scan(arithmetic, read_key, w, u, to_end, over_chunk, state)
    recalled = multiply(arithmetic, "recalled", query, states)
    recalled = recalled * arithmetic.spread("recalled.decay", from_start, recalled.shape)
    residuals = gradient_in_storage(arithmetic, "residual.local", residuals)
    local = read_locally(arithmetic, ("scores", "local"), query, read_key, between, residuals)
    factor = arithmetic.constant("scale", scale).unsqueeze(-1)
    return join((recalled + local) * factor, tokens), state


def _stored_operand(arithmetic: Arithmetic, point: str, x: Tensor) -> Tensor:
    """Returns a stored tensor as an operand; a format as fine as that of the storage holds it exactly."""
    if FORMAT_BITS[arithmetic.recipe.operand][0] >= FORMAT_BITS[arithmetic.recipe.storage][0]:
        return x
    return operand(arithmetic, point, x)


def _decay_between(arithmetic: Arithmetic, gate: Tensor) -> Tensor:
    """Returns ``exp(g_i - g_j)`` for ``i >= j`` and 1 above the diagonal, ``(K, B, H, N, C, C)``."""
    length = gate.shape[-2]
    square = (*gate.shape[:-1], length)
    rows = arithmetic.spread("gate.rows", gate, square)
    columns = arithmetic.spread("gate.columns", gate.transpose(-1, -2), square)
    # exp of a positive difference can overflow, and 0 * inf is NaN: mask first.
    return decays(arithmetic, "decay.between", (rows - columns).tril(), terms=length)


def _written(
    arithmetic: Arithmetic, key: Tensor, value: Tensor, rate: Tensor, from_start: Tensor, between: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns W ``(K, B, H, N, C, D)`` and U ``(K, B, H, N, C, V)`` as operands."""
    products = multiply(arithmetic, "key_products", key, key.transpose(-1, -2))
    coupling = (products * between * arithmetic.spread("beta.rows", rate, between.shape)).tril(-1)
    solved = inverse(arithmetic, "inverse", coupling)
    weighted_key = scaled_operand(arithmetic, "key.weighted", key, rate * from_start, key)
    weighted_value = scaled_operand(arithmetic, "value.weighted", value, rate, value)
    w = operand(arithmetic, "w", multiply(arithmetic, "w", solved, weighted_key))
    return w, operand(arithmetic, "u", multiply(arithmetic, "u", solved, weighted_value))


def _scan(
    arithmetic: Arithmetic, key: Tensor, w: Tensor, u: Tensor, to_end: Tensor, over_chunk: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the state before each chunk and the residuals, both as operands, and the final state.

    Shapes ``(K, B, H, N, D, V)``, ``(K, B, H, N, C, V)`` and ``(K, B, H, D, V)``.
    """
    states, residuals = [], []
    # unbind and not an index: the gradient of an index is a tensor of all chunks, for each of them.
    for parts in zip(*(x.unbind(3) for x in (key, w, u, to_end, over_chunk)), strict=True):
        chunk_key, chunk_w, chunk_u, chunk_to_end, chunk_decay = parts
        states.append(operand(arithmetic, "state", state))
        residual = chunk_u - multiply(arithmetic, "w_state", chunk_w, states[-1])
        residuals.append(operand(arithmetic, "residual", residual))
        written = scaled_operand(arithmetic, "residual.decayed", residual, chunk_to_end, residuals[-1])
        remembered = chunk_to_end.detach()[:1].square().sum(-2, keepdim=True)
        state = update_state(arithmetic, "state", (chunk_decay, state, states[-1]), (chunk_key, written), remembered)
    return torch.stack(states, dim=3), torch.stack(residuals, dim=3), state
