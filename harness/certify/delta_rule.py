"""The gated delta rule in balls, written one token and one head at a time and not from `reference/`.

Letters: B batch, T tokens, H value heads, G query/key heads, D query/key width, V value width.
"""

from collections.abc import Sequence

import numpy as np

from harness.certify.balls import Array, Ball, exp, filled
from harness.certify.elementwise import l2_norm

__all__ = ["gated_delta_rule"]


def gated_delta_rule(
    query: Array,
    key: Array,
    value: Array,
    log_decay: Array | None,
    beta: Array,
    *,
    scale: float | Ball,
    initial_state: Array | None = None,
    normalize_qk: bool = False,
    cu_seqlens: Sequence[int] | None = None,
) -> dict[str, Array]:
    """Returns out (B, T, H, V) and final_state (B, H, D, V); packed sequences have one state each."""
    B, T, H, V = value.shape
    G, D = query.shape[2:]
    if normalize_qk:
        query, key = l2_norm(query), l2_norm(key)
    spans = [(batch, batch, range(T)) for batch in range(B)]
    if cu_seqlens is not None:
        spans = [(0, i, range(cu_seqlens[i], cu_seqlens[i + 1])) for i in range(len(cu_seqlens) - 1)]
    out, final_state = filled((B, T, H, V)), filled((len(spans), H, D, V))
    for (batch, sequence, tokens), head in ((span, head) for span in spans for head in range(H)):
        shared = head // (H // G)
        state = filled((D, V)) if initial_state is None else initial_state[sequence, head]
        for token in tokens:
            k = key[batch, token, shared]
            if log_decay is not None:
                state = state * exp(log_decay[batch, token, head])
            written = (value[batch, token, head] - k @ state) * beta[batch, token, head]
            state = state + np.outer(k, written)
            out[batch, token, head] = (query[batch, token, shared] @ state) * scale
        final_state[sequence, head] = state
    return {"out": out, "final_state": final_state}
