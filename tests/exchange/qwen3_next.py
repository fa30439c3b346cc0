"""Qwen3-Next: gated attention and Gated DeltaNet of transformers, ours, and the exchange of their state dicts.

Gated attention: the rows of ``q_proj`` are per head ``[query | gate]``; ours are two projections.

Gated DeltaNet: the rows of ``in_proj_qkvz`` are per query/key head ``[q | k | v of its value heads | z of the same]``,
those of ``in_proj_ba`` per query/key head ``[b of its value heads | a of the same]``. Ours stand as ``[q | k | v]``
over all heads in ``qkv_proj``, z in ``g_proj``, b in ``b_proj``, a in ``decay_gate.proj``. The convolution runs over
``[q | k | v]`` on both sides; its weight has an axis of length 1 there, between channels and taps.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import reference
from tests.exchange import modules
from tests.exchange.agreement import State
from tests.exchange.exchange import Exchange, Rope
from tests.exchange.peers import Peer, make_peer, transformers

__all__ = [
    "DELTA_NET",
    "EXCHANGES",
    "attention_from_peer",
    "attention_to_peer",
    "delta_net_from_peer",
    "delta_net_to_peer",
    "make_config",
]

_EPS = 1e-3  # large enough that a norm without it, or with another one, is another norm
_BASE = 1e4
_ROPE_DIM = 4
_HEADS: dict[str, Any] = {"hidden_size": 24, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16}
DELTA_NET: dict[str, Any] = {
    "hidden_size": 24,
    "num_query_key_heads": 2,
    "num_value_heads": 6,
    "head_qk_dim": 8,
    "head_v_dim": 5,
    "norm_eps": _EPS,
    "conv_size": 4,
    "decay_gate": {"type": "mamba", "normalizer": 16.0, "dt_min": 1e-3, "dt_max": 0.1, "dt_init_floor": 1e-4},
}
"""Sizes of the Gated DeltaNet, as options of ours."""


def make_config(config_class: Callable[..., Any]) -> Any:
    """Returns a configuration of Qwen3-Next or of a model with the same layers."""
    return config_class(
        **_HEADS,
        rms_norm_eps=_EPS,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": _BASE,
            "partial_rotary_factor": _ROPE_DIM / _HEADS["head_dim"],
        },
        linear_num_key_heads=DELTA_NET["num_query_key_heads"],
        linear_num_value_heads=DELTA_NET["num_value_heads"],
        linear_key_head_dim=DELTA_NET["head_qk_dim"],
        linear_value_head_dim=DELTA_NET["head_v_dim"],
        linear_conv_kernel_dim=DELTA_NET["conv_size"],
        num_hidden_layers=2,
        layer_types=["linear_attention", "full_attention"],
        attn_implementation="eager",
    )


def _attention_peer() -> Peer:
    model = transformers("models.qwen3_next.modeling_qwen3_next")
    return make_peer(
        make_config(model.Qwen3NextConfig), model.Qwen3NextAttention, model.Qwen3NextRotaryEmbedding, layer_idx=1
    )


def _delta_net_peer() -> Peer:
    model = transformers("models.qwen3_next.modeling_qwen3_next")
    return make_peer(make_config(model.Qwen3NextConfig), model.Qwen3NextGatedDeltaNet, None, layer_idx=0)


def attention_from_peer(state: State) -> dict[str, Tensor]:
    """Returns transformers' state dict of gated attention in our layout: queries and gates taken apart."""
    ours = dict(state)
    query, gate = _per_head(state["q_proj.weight"], _HEADS["num_attention_heads"]).chunk(2, dim=1)
    return ours | {"q_proj.weight": query.flatten(0, 1), "gate_proj.weight": gate.flatten(0, 1)}


def attention_to_peer(state: State) -> dict[str, Tensor]:
    """Returns our state dict of gated attention in transformers' layout: queries and gates joined head by head."""
    theirs = dict(state)
    heads = _HEADS["num_attention_heads"]
    query, gate = _per_head(state["q_proj.weight"], heads), _per_head(theirs.pop("gate_proj.weight"), heads)
    return theirs | {"q_proj.weight": torch.cat((query, gate), 1).flatten(0, 1)}


def delta_net_from_peer(state: State) -> dict[str, Tensor]:
    """Returns transformers' state dict of Gated DeltaNet in our layout."""
    groups, width, per_group = _groups()
    sizes = [width, width, per_group * DELTA_NET["head_v_dim"], per_group * DELTA_NET["head_v_dim"]]
    q, k, v, z = (part.flatten(0, 1) for part in torch.split(_per_head(state["in_proj_qkvz.weight"], groups), sizes, 1))
    b, a = (part.flatten(0, 1) for part in torch.split(_per_head(state["in_proj_ba.weight"], groups), per_group, 1))
    return {
        "qkv_proj.weight": torch.cat((q, k, v)),
        "qkv_conv1d.weight": state["conv1d.weight"].squeeze(1),
        "g_proj.weight": z,
        "b_proj.weight": b,
        "decay_gate.proj.weight": a,
        "decay_gate.A_log": state["A_log"],
        "decay_gate.dt_bias": state["dt_bias"],
        "out_norm.weight": state["norm.weight"],
        "o_proj.weight": state["out_proj.weight"],
    }


def delta_net_to_peer(state: State) -> dict[str, Tensor]:
    """Returns our state dict of Gated DeltaNet in transformers' layout."""
    groups, width, per_group = _groups()
    v_rows = groups * per_group * DELTA_NET["head_v_dim"]
    q, k, v = torch.split(state["qkv_proj.weight"], [groups * width, groups * width, v_rows])
    qkvz = [_per_head(part, groups) for part in (q, k, v, state["g_proj.weight"])]
    ba = [_per_head(part, groups) for part in (state["b_proj.weight"], state["decay_gate.proj.weight"])]
    return {
        "in_proj_qkvz.weight": torch.cat(qkvz, 1).flatten(0, 1),
        "in_proj_ba.weight": torch.cat(ba, 1).flatten(0, 1),
        "conv1d.weight": state["qkv_conv1d.weight"].unsqueeze(1),
        "A_log": state["decay_gate.A_log"],
        "dt_bias": state["decay_gate.dt_bias"],
        "norm.weight": state["out_norm.weight"],
        "out_proj.weight": state["o_proj.weight"],
    }


def _per_head(weight: Tensor, heads: int) -> Tensor:
    """Returns the rows of a weight as ``(heads, rows per head, columns)``."""
    return weight.view(heads, -1, weight.shape[-1])


def _groups() -> tuple[int, int, int]:
    """Returns the query/key heads, their width, and the value heads that share one of them."""
    groups = DELTA_NET["num_query_key_heads"]
    return groups, DELTA_NET["head_qk_dim"], DELTA_NET["num_value_heads"] // groups


EXCHANGES = {
    "qwen3-next-attention": Exchange(
        make_peer=_attention_peer,
        from_peer=attention_from_peer,
        to_peer=attention_to_peer,
        function=reference.grouped_query_attention,
        make_module=modules.grouped_query_attention,
        options={
            **_HEADS,
            "qk_norm_eps": _EPS,
            "is_causal": True,
            "rope_style": "half",
            "rope_dim": _ROPE_DIM,
            "enable_output_gate": True,
            "qk_norm_zero_centered": True,
        },
        rope=Rope(rope_dim=_ROPE_DIM, base=_BASE, style="half"),
    ),
    "qwen3-next-delta-net": Exchange(
        make_peer=_delta_net_peer,
        from_peer=delta_net_from_peer,
        to_peer=delta_net_to_peer,
        function=reference.gated_delta_net,
        make_module=modules.gated_delta_net,
        options=DELTA_NET,
        num_tokens=70,  # transformers computes in chunks of 64
        is_same_without_keys=True,
    ),
}
"""Qwen3-Next's gated attention and its Gated DeltaNet."""
