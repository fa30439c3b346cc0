"""DeepSeek-V2 and V3 latent attention: transformers' layers, ours, and the exchange of their state dicts.

transformers' ``a`` projections are ours called ``down``, its ``b`` projections ours called ``up``; the order of rows is
the same. The norms of the latents have ``eps = 1e-6`` there, whatever ``rms_norm_eps`` of the configuration says.

A checkpoint with YaRN multiplies the logits by a factor of its own, which our layer has not: ``fold_logit_factor``
puts it into the queries.

V2 rotates interleaved pairs as complex numbers. V3 does the same with ``rope_interleave`` but leaves the results
de-interleaved, queries and keys alike, so that the logits are those of ours; without it, it rotates halves.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

import reference
from tests.exchange import modules
from tests.exchange.agreement import State
from tests.exchange.exchange import Exchange, Rope
from tests.exchange.peers import Peer, make_peer, transformers

__all__ = ["EXCHANGES", "YARN", "fold_logit_factor", "from_peer", "make_peer_v3", "to_peer"]

_CONTEXT, _FACTOR = 32, 40

YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "factor": float(_FACTOR),
    "original_max_position_embeddings": _CONTEXT,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
"""YaRN as DeepSeek-V3 has it, for a shorter original context: magnitude in the logits, none in the tables."""

_BASE = 1e4
_OTHER_EPS = 0.5
_RANK = 7
_SHAPES: dict[str, Any] = {
    "hidden_size": 24,
    "num_attention_heads": 3,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 6,
    "v_head_dim": 10,
    "kv_lora_rank": 12,
}
_NAMES = {
    "q_proj.weight": "q_proj.weight",
    "q_a_proj.weight": "q_proj.down_proj.weight",
    "q_a_layernorm.weight": "q_proj.norm.weight",
    "q_b_proj.weight": "q_proj.up_proj.weight",
    "kv_a_proj_with_mqa.weight": "kv_down_proj.weight",
    "kv_a_layernorm.weight": "kv_down_norm.weight",
    "kv_b_proj.weight": "kv_up_proj.weight",
    "o_proj.weight": "o_proj.weight",
}


def _arguments(q_lora_rank: int | None, rope_parameters: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {
        **_SHAPES,
        "num_key_value_heads": _SHAPES["num_attention_heads"],
        "q_lora_rank": q_lora_rank,
        "rms_norm_eps": _OTHER_EPS,
        "rope_parameters": {"rope_theta": _BASE, **(rope_parameters or {"rope_type": "default"})},
        "max_position_embeddings": _CONTEXT * _FACTOR,
        "num_hidden_layers": 1,
        "attn_implementation": "eager",
    }


def _peer_v2(q_lora_rank: int | None) -> Peer:
    model = transformers("models.deepseek_v2.modeling_deepseek_v2")
    return make_peer(
        model.DeepseekV2Config(**_arguments(q_lora_rank)), model.DeepseekV2Attention, model.DeepseekV2RotaryEmbedding
    )


def make_peer_v3(
    q_lora_rank: int | None, *, rope_interleave: bool = True, rope_parameters: Mapping[str, Any] | None = None
) -> Peer:
    """Returns transformers' layer of DeepSeek-V3, in which YaRN may scale the rotation."""
    model = transformers("models.deepseek_v3.modeling_deepseek_v3")
    config = model.DeepseekV3Config(**_arguments(q_lora_rank, rope_parameters), rope_interleave=rope_interleave)
    return make_peer(config, model.DeepseekV3Attention, model.DeepseekV3RotaryEmbedding)


def from_peer(state: State) -> dict[str, Tensor]:
    """Returns transformers' state dict under our names."""
    return {_NAMES[name]: value for name, value in state.items()}


def to_peer(state: State) -> dict[str, Tensor]:
    """Returns our state dict under transformers' names."""
    theirs = {ours: name for name, ours in _NAMES.items()}
    return {theirs[name]: value for name, value in state.items()}


def fold_logit_factor(state: State, *, factor: float, mscale_all_dim: float) -> dict[str, Tensor]:
    """Returns our state dict with YaRN's factor of DeepSeek's logits in the last projection of the queries.

    transformers multiplies the scale of the dot products by ``m^2``, ``m = 0.1 mscale_all_dim ln(factor) + 1``. Queries
    enter the logits linearly after that projection, so the weight takes the same factor.
    """
    name = "q_proj.weight" if "q_proj.weight" in state else "q_proj.up_proj.weight"
    return {**state, name: state[name] * (0.1 * mscale_all_dim * math.log(factor) + 1) ** 2}


def _exchange(peer: Any, *, q_lora_rank: int | None, rope_style: str = "interleaved") -> Exchange:
    return Exchange(
        make_peer=partial(peer, q_lora_rank),
        from_peer=from_peer,
        to_peer=to_peer,
        function=reference.multi_head_latent_attention,
        make_module=modules.multi_head_latent_attention,
        options={
            **_SHAPES,
            "q_lora_rank": q_lora_rank,
            "qk_down_norm_eps": 1e-6,
            "is_causal": True,
            "rope_style": rope_style,
        },
        rope=Rope(rope_dim=_SHAPES["qk_rope_head_dim"], base=_BASE, style=rope_style),
    )


EXCHANGES = {
    "deepseek-v2": _exchange(_peer_v2, q_lora_rank=_RANK),
    "deepseek-v2-lite": _exchange(_peer_v2, q_lora_rank=None),
    "deepseek-v3": _exchange(make_peer_v3, q_lora_rank=_RANK),
    "deepseek-v3-full-queries": _exchange(make_peer_v3, q_lora_rank=None),
    "deepseek-v3-halves": _exchange(partial(make_peer_v3, rope_interleave=False), q_lora_rank=_RANK, rope_style="half"),
}
"""DeepSeek-V2 and V3, with and without a bottleneck of the queries, V3 with both layouts of rotated pairs."""
