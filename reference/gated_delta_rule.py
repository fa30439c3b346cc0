"""The gated delta rule, one token after the other.

Legend: B batch, T tokens, G query/key heads, H value heads, D query/key width, V value width, N packed sequences.

Source: Yang, Kautz and Hatamizadeh, "Gated Delta Networks: Improving Mamba2 with Delta Rule" (2024), equation 10; the
ungated rule: Yang et al., "Parallelizing Linear Transformers with the Delta Rule over Sequence Length" (2024),
section 2.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from reference.checks import require_bounds, require_divisible, require_floats, require_shape
from reference.l2_norm import l2_norm

__all__ = ["GatedDeltaRuleOutput", "gated_delta_rule"]

_STATE_ELEMENTS = 2**22
"""States of so many elements together are kept for a gradient at a time."""


class GatedDeltaRuleOutput(NamedTuple):
    """What the gated delta rule returns: ``out`` of every token and the state after the last."""

    out: Tensor
    final_state: Tensor


def gated_delta_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay: Tensor | None,
    beta: Tensor,
    *,
    scale: float,
    initial_state: Tensor | None = None,
    normalize_qk: bool = False,
    cu_seqlens: Tensor | None = None,
) -> GatedDeltaRuleOutput:
    """Returns what a decaying associative memory answers to the queries while keys and values are written to it.

    Definition:
        For every value head, with its state ``S (D, V)`` and for one token after the other::

            S_t   = exp(log_decay_t) * S_{t-1}
            S_t  += beta_t * k_t (v_t - S_t^T k_t)^T
            out_t = scale * S_t^T q_t

    Conventions:
        Decay first, then the write (which reads the decayed state), then the read of the updated state. Value head
        ``h`` uses query/key head ``h // (H/G)``. ``log_decay=None`` is 0, the plain delta rule; ``initial_state=None``
        is 0. With ``normalize_qk`` queries and keys first pass through ``l2_norm`` with its epsilon 1e-6. With
        ``cu_seqlens`` the sequences are packed in one batch entry and each starts from its own initial state; a
        sequence may have no tokens.

    Numerics:
        Strictly the recurrence. With ``beta_t |k_t|^2 > 2`` it is unstable by nature and amplifies every rounding.

    Args:
        query: ``(B, T, G, D)``.
        key: ``(B, T, G, D)``.
        value: ``(B, T, H, V)``, ``H % G == 0``.
        log_decay: ``(B, T, H)`` or None.
        beta: ``(B, T, H)``.
        scale: factor of the output.
        initial_state: ``(B, H, D, V)``; packed ``(N, H, D, V)``.
        normalize_qk: whether queries and keys are scaled to unit length.
        cu_seqlens: ``(N + 1,)`` int32 or int64, from 0 to T; requires ``B = 1``.

    Returns:
        ``GatedDeltaRuleOutput(out, final_state)``: ``(B, T, H, V)`` and the shape of ``initial_state``, in the dtype
        of query.

    Raises:
        TypeError: an argument is no tensor of the dtype of query, or offsets are not integers.
        ValueError: shapes or devices disagree, H is no multiple of G, or ``cu_seqlens`` are no bounds of sequences.
    """
    _check(query, key, value, log_decay, beta)
    B, T, G, D = query.shape
    H, V = value.shape[2:]
    bounds = None if cu_seqlens is None else require_bounds("cu_seqlens", cu_seqlens, num_tokens=T, device=query.device)
    if bounds is not None and B != 1:
        raise ValueError(f"query: got batch {B}, expected 1 with cu_seqlens")
    num_states = B if bounds is None else len(bounds) - 1
    if initial_state is None:
        state = value.new_zeros(num_states, H, D, V)
    else:
        require_floats(query=query, initial_state=initial_state)
        require_shape("initial_state", initial_state, B=num_states, H=H, D=D, V=V)
        state = initial_state.clone()

    if normalize_qk:
        query, key = l2_norm(query), l2_norm(key)
    queries = query.repeat_interleave(H // G, 2)
    keys = key.repeat_interleave(H // G, 2)
    if bounds is None:
        return _recurrence(queries, keys, value, log_decay, beta, scale=scale, state=state)
    parts = [
        _recurrence(
            queries[:, a:b],
            keys[:, a:b],
            value[:, a:b],
            None if log_decay is None else log_decay[:, a:b],
            beta[:, a:b],
            scale=scale,
            state=state[n : n + 1],
        )
        for n, (a, b) in enumerate(pairwise(bounds))
    ]
    return GatedDeltaRuleOutput(torch.cat([p.out for p in parts], 1), torch.cat([p.final_state for p in parts]))


def _recurrence(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay: Tensor | None,
    beta: Tensor,
    *,
    scale: float,
    state: Tensor,
) -> GatedDeltaRuleOutput:
    """The recurrence with all heads of the batch side by side; all tensors have H heads here.

    A gradient needs the state before every token. Of a long sequence, those of a few tokens at a time are made again,
    so that memory does not grow by a state with every token.
    """
    B, T, H, D = query.shape
    V = value.shape[-1]
    decay = torch.ones_like(beta) if log_decay is None else log_decay.exp()
    written_key = beta.unsqueeze(-1) * key
    rows = (x.transpose(0, 1).reshape(T, B * H, 1, x.shape[-1]) for x in (query, key, value))
    columns = (written_key.transpose(0, 1).reshape(T, B * H, D, 1), decay.transpose(0, 1).reshape(T, B * H, 1, 1))
    steps = (*rows, *columns)
    memory = state.reshape(B * H, D, V)
    few = max(1, _STATE_ELEMENTS // max(1, B * H * D * V))
    if few >= T:
        out, memory = _tokens(memory, *steps)
    else:
        outs = []
        for some in zip(*(torch.split(step, few) for step in steps), strict=True):
            part, memory = _Remade.apply(memory, *some)  # type: ignore[no-untyped-call]  # torch
            outs.append(part)
        out = torch.cat(outs)
    return GatedDeltaRuleOutput(scale * out.reshape(T, B, H, V).transpose(0, 1), memory.reshape(state.shape))


def _tokens(
    state: Tensor, query: Tensor, key: Tensor, value: Tensor, written_key: Tensor, decay: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns the outputs, unscaled, and the last state: the definition's three lines, over the first dimension."""
    outs = [torch.zeros_like(value[:0])]
    # unbind and not an index: the gradient of an index is a tensor of all tokens, for each of them.
    steps = (x.unbind(0) for x in (query, key, value, written_key, decay))
    for q, k, v, written, g in zip(*steps, strict=True):
        state = g * state
        state = torch.baddbmm(state, written, torch.baddbmm(v, k, state, alpha=-1))
        outs.append(torch.bmm(q, state).unsqueeze(0))
    return torch.cat(outs), state


class _Remade(torch.autograd.Function):
    """``_tokens`` that keeps its arguments alone; a checkpoint of torch's calls Python for each tensor not kept."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch hands its own node, which takes attributes)
        *arguments: Tensor,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(*arguments)
        return _tokens(*arguments)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401 (torch hands its own node, which takes attributes)
        *cotangents: Tensor,
    ) -> tuple[Tensor | None, ...]:
        saved = zip(ctx.saved_tensors, ctx.needs_input_grad, strict=True)
        arguments = [tensor.detach().requires_grad_(is_needed) for tensor, is_needed in saved]
        with torch.enable_grad():
            outputs = _tokens(*arguments)
        needed = [argument for argument in arguments if argument.requires_grad]
        # The last state does not depend on the queries: where only theirs are asked for, it has no gradient.
        asked = [(x, cotangent) for x, cotangent in zip(outputs, cotangents, strict=True) if x.requires_grad]
        gradients = iter(torch.autograd.grad([x for x, _ in asked], needed, [cotangent for _, cotangent in asked]))
        return tuple(next(gradients) if argument.requires_grad else None for argument in arguments)


def _check(query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor | None, beta: Tensor) -> None:
    require_floats(query=query, key=key, value=value, beta=beta)
    require_shape("query", query, B=None, T=None, G=None, D=None)
    B, T, G, D = query.shape
    require_shape("key", key, B=B, T=T, G=G, D=D)
    require_shape("value", value, B=B, T=T, H=None, V=None)
    H = value.shape[2]
    require_divisible("value", H, by=G, divisor="query")
    require_shape("beta", beta, B=B, T=T, H=H)
    if log_decay is not None:
        require_floats(query=query, log_decay=log_decay)
        require_shape("log_decay", log_decay, B=B, T=T, H=H)
