"""The five layers in balls, composed from the operations in balls and not from `reference/`.

A layer has the call of the reference: forward arguments, then the mapping of parameters, then what its constructor
takes. Letters: B batch, T tokens, H heads.
"""

from collections.abc import Mapping
from typing import Any

import flint
import numpy as np

from harness.certify.attention import attention
from harness.certify.balls import Array, Ball, constant, filled, sigmoid
from harness.certify.delta_rule import gated_delta_rule
from harness.certify.elementwise import (
    linear,
    log_sigmoid_decay,
    mamba_decay,
    rms_norm,
    rope,
    short_conv,
    silu_mul,
)

__all__ = [
    "flash_sdpa",
    "gated_delta_net",
    "grouped_query_attention",
    "low_rank_projection",
    "multi_head_latent_attention",
]

Parameters = Mapping[str, Array]


def _inverse_root(width: int) -> Ball:
    return constant(flint.arb(width).rsqrt())


def low_rank_projection(
    hidden_states: Array,
    parameters: Parameters,
    *,
    in_features: int,  # noqa: ARG001 - part of the layer's call
    bottleneck: int,  # noqa: ARG001 - part of the layer's call
    out_features: int,  # noqa: ARG001 - part of the layer's call
    norm_eps: float,
) -> Array:
    """Returns ``up_proj(rms_norm(down_proj(x)))``."""
    return _low_rank(hidden_states, parameters, "", norm_eps)


def _low_rank(x: Array, parameters: Parameters, prefix: str, eps: float) -> Array:
    latent = rms_norm(linear(x, parameters[prefix + "down_proj.weight"]), parameters[prefix + "norm.weight"], eps=eps)
    return linear(latent, parameters[prefix + "up_proj.weight"])


def flash_sdpa(
    query_states: Array,
    key_states: Array,
    value_states: Array,
    attention_mask: Array | None,
    parameters: Parameters,
    *,
    is_causal: bool,
    scale: float,
    num_sinks: int | None = None,
    window_size: int | None = None,
) -> Array:
    """Returns attention with the layer's sinks and window."""
    return attention(
        query_states,
        key_states,
        value_states,
        scale=scale,
        window=(window_size, 0 if is_causal else None),
        sinks=None if num_sinks is None else parameters["sinks"],
        key_mask=attention_mask,
    )["out"]


def grouped_query_attention(
    hidden_states: Array,
    attention_mask: Array | None,
    position_embeddings: tuple[Array, Array],
    parameters: Parameters,
    *,
    hidden_size: int,  # noqa: ARG001 - part of the layer's call
    num_attention_heads: int,
    num_key_value_heads: int,
    head_dim: int,
    qk_norm_eps: float | None,
    is_causal: bool,
    rope_style: str,
    rope_dim: int | None = None,
    enable_output_gate: bool = False,
    qk_norm_zero_centered: bool = False,
) -> Array:
    """Returns projections, per-head norm, rotation of the first channels, attention, gate and output projection."""
    B, T, _ = hidden_states.shape
    rotated = head_dim if rope_dim is None else rope_dim

    def heads(name: str, count: int) -> Array:
        return linear(hidden_states, parameters[f"{name}_proj.weight"]).reshape(B, T, count, head_dim)

    def prepared(name: str, count: int) -> Array:
        states = heads(name, count)
        if qk_norm_eps is not None:
            weight = parameters[f"{name}_norm.weight"]
            states = rms_norm(states, weight, eps=qk_norm_eps, zero_centered=qk_norm_zero_centered)
        turned = rope(states[..., :rotated], *position_embeddings, style=rope_style)
        return np.concatenate([turned, states[..., rotated:]], axis=-1)

    out = attention(
        prepared("q", num_attention_heads),
        prepared("k", num_key_value_heads),
        heads("v", num_key_value_heads),
        scale=_inverse_root(head_dim),
        window=(None, 0 if is_causal else None),
        key_mask=attention_mask,
    )["out"].reshape(B, T, -1)
    if enable_output_gate:
        out = out * sigmoid(linear(hidden_states, parameters["gate_proj.weight"]))
    return linear(out, parameters["o_proj.weight"])


def multi_head_latent_attention(
    hidden_states: Array,
    attention_mask: Array | None,
    position_embeddings: tuple[Array, Array],
    parameters: Parameters,
    *,
    hidden_size: int,  # noqa: ARG001 - part of the layer's call
    num_attention_heads: int,
    qk_nope_head_dim: int,
    qk_rope_head_dim: int,
    v_head_dim: int,
    kv_lora_rank: int,
    q_lora_rank: int | None,
    qk_down_norm_eps: float,
    is_causal: bool,
    rope_style: str,
) -> Array:
    """Returns latent attention in its expanded form: every head gets its own key content and value."""
    B, T, _ = hidden_states.shape
    H, nope = num_attention_heads, qk_nope_head_dim
    if q_lora_rank is None:
        query = linear(hidden_states, parameters["q_proj.weight"])
    else:
        query = _low_rank(hidden_states, parameters, "q_proj.", qk_down_norm_eps)
    query = query.reshape(B, T, H, nope + qk_rope_head_dim)
    query = _with_turned_tail(query[..., :nope], query[..., nope:], position_embeddings, rope_style)

    down = linear(hidden_states, parameters["kv_down_proj.weight"])
    latent = rms_norm(down[..., :kv_lora_rank], parameters["kv_down_norm.weight"], eps=qk_down_norm_eps)
    expanded = linear(latent, parameters["kv_up_proj.weight"]).reshape(B, T, H, nope + v_head_dim)
    shared = down[..., None, kv_lora_rank:]
    key = _with_turned_tail(expanded[..., :nope], shared, position_embeddings, rope_style)
    out = attention(
        query,
        key,
        expanded[..., nope:],
        scale=_inverse_root(nope + qk_rope_head_dim),
        window=(None, 0 if is_causal else None),
        key_mask=attention_mask,
    )["out"]
    return linear(out.reshape(B, T, -1), parameters["o_proj.weight"])


def _with_turned_tail(content: Array, tail: Array, tables: tuple[Array, Array], style: str) -> Array:
    turned = rope(tail, *tables, style=style)
    return np.concatenate([content, np.broadcast_to(turned, (*content.shape[:3], tail.shape[-1]))], axis=-1)


def gated_delta_net(
    hidden_states: Array,
    attention_mask: Array | None,
    parameters: Parameters,
    *,
    hidden_size: int,  # noqa: ARG001 - part of the layer's call
    num_query_key_heads: int,
    num_value_heads: int,
    head_qk_dim: int,
    head_v_dim: int,
    norm_eps: float,
    conv_size: int,  # noqa: ARG001 - part of the layer's call
    decay_gate: Mapping[str, Any],
    use_qk_l2norm: bool = True,
) -> Array:
    """Returns the gated delta rule between convolved projections and a gated output norm."""
    B, T, _ = hidden_states.shape
    G, H = num_query_key_heads, num_value_heads
    x = hidden_states
    if attention_mask is not None:
        x = np.where(attention_mask[:, :, None], x, filled(x.shape))
    mixed = short_conv(linear(x, parameters["qkv_proj.weight"]), parameters["qkv_conv1d.weight"])
    width = G * head_qk_dim
    delta = gated_delta_rule(
        mixed[..., :width].reshape(B, T, G, head_qk_dim),
        mixed[..., width : 2 * width].reshape(B, T, G, head_qk_dim),
        mixed[..., 2 * width :].reshape(B, T, H, head_v_dim),
        _log_decay(x, parameters, decay_gate),
        sigmoid(linear(x, parameters["b_proj.weight"])),
        scale=_inverse_root(head_qk_dim),
        normalize_qk=use_qk_l2norm,
    )["out"]
    normed = rms_norm(delta, parameters["out_norm.weight"], eps=norm_eps).reshape(B, T, -1)
    return linear(silu_mul(linear(x, parameters["g_proj.weight"]), normed), parameters["o_proj.weight"])


def _log_decay(x: Array, parameters: Parameters, decay_gate: Mapping[str, Any]) -> Array:
    pre = linear(x, parameters["decay_gate.proj.weight"])
    if decay_gate["type"] == "mamba":
        return mamba_decay(pre, parameters["decay_gate.A_log"], parameters["decay_gate.dt_bias"])
    return log_sigmoid_decay(pre, normalizer=decay_gate["normalizer"])
