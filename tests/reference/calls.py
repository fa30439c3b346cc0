"""One small differentiable call of every operation and layer: what all of them have in common is tested over these."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import reference
from tests.reference import draws
from tests.reference.draws import normal

__all__ = ["CALLS", "Call"]

SHORT_KEYS = 1024.0
"""Condition with normalised keys: the third derivative of ``k / |k|`` grows as ``1 / |k|^3``, and these are short."""


class Call(NamedTuple):
    """A function of differentiable tensors, the tensors, and the ``condition`` of its central differences."""

    function: Callable[..., tuple[Tensor, ...]]
    inputs: tuple[Tensor, ...]
    condition: float = 64.0


def _one(function: Callable[..., Tensor], *inputs: Tensor) -> Call:
    return Call(lambda *tensors: (function(*tensors),), inputs)


def _attention() -> Call:
    def function(query: Tensor, key: Tensor, value: Tensor, sinks: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        key_mask = torch.tensor([[True, True, False, True, True], [False, True, True, True, True]])
        return reference.attention(
            query, key, value, scale=0.7, window=(2, 1), sinks=sinks, key_mask=key_mask, bias=bias
        )

    query, key, value = normal(2, 3, 4, 3, seed=0), normal(2, 5, 2, 3, seed=1), normal(2, 5, 2, 4, seed=2)
    return Call(function, (query, key, value, normal(4, seed=3), normal(1, 4, 3, 5, seed=4)))


def _varlen_attention() -> Call:
    def function(query: Tensor, key: Tensor, value: Tensor, sinks: Tensor) -> tuple[Tensor, ...]:
        q_bounds, k_bounds = torch.tensor([0, 2, 2, 5]), torch.tensor([0, 3, 4, 6])
        return reference.varlen_attention(
            query, key, value, q_bounds, k_bounds, scale=0.7, window=(None, 0), sinks=sinks
        )

    query, key, value = normal(5, 2, 3, seed=0), normal(6, 1, 3, seed=1), normal(6, 1, 4, seed=2)
    return Call(function, (query, key, value, normal(2, seed=3)))


def _gated_delta_rule() -> Call:
    def function(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        return reference.gated_delta_rule(q, k, v, log_decay, beta, scale=0.7, initial_state=state, normalize_qk=True)

    return Call(function, tuple(draws.delta_rule_inputs(2, 4, 1, 2, 3, 2)), SHORT_KEYS)


def _packed_delta_rule() -> Call:
    def function(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        offsets = torch.tensor([0, 2, 2, 5])
        return reference.gated_delta_rule(q, k, v, log_decay, beta, scale=0.7, initial_state=state, cu_seqlens=offsets)

    *tokens, _ = draws.delta_rule_inputs(1, 5, 1, 2, 3, 2)
    return Call(function, (*tokens, normal(3, 2, 3, 2, seed=9)))


def _layer(function: Callable[..., Tensor], shapes: draws.Shapes, *inputs: Tensor, condition: float = 64.0) -> Call:
    """A call ``function(inputs, parameters)`` that is differentiable in all of both."""
    parameters = draws.parameters_of(shapes, seed=20)
    count = len(inputs)

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        return (function(*tensors[:count], dict(zip(parameters, tensors[count:], strict=True))),)

    return Call(flat, (*inputs, *parameters.values()), condition)


def _low_rank(x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    return reference.low_rank_projection(x, parameters, **draws.LOW_RANK)


def _flash(q: Tensor, k: Tensor, v: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    mask = torch.tensor([[True, True, False, True]])
    return reference.flash_sdpa(q, k, v, mask, parameters, is_causal=True, scale=0.7, num_sinks=2, window_size=1)


def _grouped(x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    cos, sin = draws.tables(2, 3, 4, style="half", seed=7)
    embeddings = (cos.to(x.dtype), sin.to(x.dtype))
    return reference.grouped_query_attention(x, None, embeddings, parameters, **draws.GROUPED)


def _latent(x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    cos, sin = draws.tables(2, 3, 4, style="interleaved", seed=7)
    embeddings = (cos.to(x.dtype), sin.to(x.dtype))
    return reference.multi_head_latent_attention(x, None, embeddings, parameters, **draws.LATENT)


def _delta_net(x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    mask = torch.tensor([[True, True, True], [False, True, True]])
    return reference.gated_delta_net(x, mask, parameters, **draws.DELTA_NET)


def _rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return reference.rope(x, cos, sin, style="interleaved")


_cos, _sin = (t.requires_grad_() for t in draws.tables(2, 3, 4, style="interleaved", seed=5))

CALLS: dict[str, Call] = {
    "rms_norm": _one(
        lambda x, w: reference.rms_norm(x, w, eps=1e-5, zero_centered=True), normal(3, 4, seed=0), normal(4, seed=1)
    ),
    "gated_rms_norm": _one(
        lambda x, z, w: reference.gated_rms_norm(x, z, w, eps=1e-5),
        normal(3, 4, seed=0),
        normal(3, 4, seed=1),
        normal(4, seed=2),
    ),
    "l2_norm": _one(reference.l2_norm, normal(3, 4, seed=0)),
    "rope": _one(_rope, normal(2, 3, 2, 4, seed=0), _cos, _sin),
    "short_conv": _one(reference.short_conv, normal(2, 4, 3, seed=0), normal(3, 3, seed=1)),
    "silu_mul": _one(reference.silu_mul, normal(3, 4, seed=0), normal(3, 4, seed=1)),
    "mamba_decay": _one(reference.mamba_decay, normal(2, 3, 2, seed=0), normal(2, seed=1), normal(2, seed=2)),
    "log_sigmoid_decay": _one(lambda x: reference.log_sigmoid_decay(x, normalizer=16.0), normal(3, 4, seed=0)),
    "attention": _attention(),
    "varlen_attention": _varlen_attention(),
    "gated_delta_rule": _gated_delta_rule(),
    "packed gated_delta_rule": _packed_delta_rule(),
    "low_rank_projection": _layer(_low_rank, draws.low_rank_shapes(), normal(2, 3, 5, seed=0)),
    "flash_sdpa": _layer(
        _flash, {"sinks": (2,)}, normal(1, 3, 2, 3, seed=0), normal(1, 4, 1, 3, seed=1), normal(1, 4, 1, 2, seed=2)
    ),
    "grouped_query_attention": _layer(_grouped, draws.grouped_shapes(), normal(2, 3, 5, seed=0)),
    "multi_head_latent_attention": _layer(_latent, draws.latent_shapes(), normal(2, 3, 5, seed=0)),
    "gated_delta_net": _layer(_delta_net, draws.delta_net_shapes(), normal(2, 3, 5, seed=0), condition=SHORT_KEYS),
}
