"""Gated DeltaNet as a layer: short convolution, gated delta rule, gated output norm.

Legend: B batch, T tokens, K taps.

Source: Yang, Kautz and Hatamizadeh, "Gated Delta Networks: Improving Mamba2 with Delta Rule" (2024), section 3.4 and
figure 1; ``GatedDeltaNet`` of d9d (``d9d.module.block.attention``).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from reference.checks import (
    require_bool,
    require_divisible,
    require_floats,
    require_parameters,
    require_positive,
    require_shape,
)
from reference.gated_delta_rule import gated_delta_rule
from reference.log_sigmoid_decay import log_sigmoid_decay
from reference.mamba_decay import mamba_decay
from reference.rms_norm import rms_norm
from reference.short_conv import short_conv
from reference.sigmoid import sigmoid
from reference.silu_mul import silu_mul

__all__ = ["gated_delta_net"]


def gated_delta_net(
    hidden_states: Tensor,
    attention_mask: Tensor | None,
    parameters: Mapping[str, Tensor],
    *,
    hidden_size: int,
    num_query_key_heads: int,
    num_value_heads: int,
    head_qk_dim: int,
    head_v_dim: int,
    norm_eps: float,
    conv_size: int,
    decay_gate: Mapping[str, Any],
    use_qk_l2norm: bool = True,
) -> Tensor:
    """Returns the layer's output.

    Definition:
        ``x = hidden_states * attention_mask``; ``qkv_proj(x)`` passes ``short_conv`` and is split into ``[q | k | v]``,
        each into its heads; ``beta = sigmoid(b_proj(x))``; the log decay is ``mamba_decay`` or ``log_sigmoid_decay`` of
        ``decay_gate.proj(x)``; ``gated_delta_rule`` with ``scale = head_qk_dim^-0.5``; ``rms_norm`` over head_v_dim;
        ``silu_mul(g_proj(x), .)``; ``o_proj``. No projection has a bias.

    Conventions:
        The mask multiplies the hidden states before everything, the gates included, so a masked token has output 0. It
        still decays the state (the log decay of a zero token is not 0) and its convolution still sees earlier tokens.

    Args:
        hidden_states: ``(B, T, hidden_size)``.
        attention_mask: None or ``(B, T)``, boolean or of the dtype of the hidden states.
        parameters: with ``qk = num_query_key_heads * head_qk_dim``, ``v = num_value_heads * head_v_dim`` and
            ``H = num_value_heads``: ``qkv_proj.weight (2 qk + v, hidden_size)``, ``qkv_conv1d.weight (2 qk + v, K)``,
            ``b_proj.weight (H, hidden_size)``, ``g_proj.weight (v, hidden_size)``,
            ``decay_gate.proj.weight (H, hidden_size)``, ``out_norm.weight (head_v_dim,)``,
            ``o_proj.weight (hidden_size, v)``; ``decay_gate.A_log (H,)`` and ``decay_gate.dt_bias (H,)`` for the Mamba
            gate.
        hidden_size: width of the layer.
        num_query_key_heads: query/key heads.
        num_value_heads: value heads, a multiple of the query/key heads.
        head_qk_dim: width of a query/key head.
        head_v_dim: width of a value head.
        norm_eps: epsilon of the output norm.
        conv_size: taps K of the convolution.
        decay_gate: ``{"type": "mamba", ..}`` or ``{"type": "logsigmoid", "normalizer": ..}``; what only initialises
            parameters is not used.
        use_qk_l2norm: whether queries and keys are scaled to unit length.

    Returns:
        ``(B, T, hidden_size)`` in the dtype of the hidden states.

    Raises:
        TypeError: a tensor has another dtype than the hidden states.
        ValueError: a shape, a parameter name, a number of heads or the decay gate is wrong.
    """
    require_floats(hidden_states=hidden_states)
    require_shape("hidden_states", hidden_states, B=None, T=None, hidden_size=hidden_size)
    B, T, _ = hidden_states.shape
    require_divisible("num_value_heads", num_value_heads, by=num_query_key_heads, divisor="num_query_key_heads")
    require_positive("norm_eps", norm_eps)
    _check_gate(decay_gate)
    qk, v = num_query_key_heads * head_qk_dim, num_value_heads * head_v_dim
    shapes = {
        "qkv_proj.weight": (2 * qk + v, hidden_size),
        "qkv_conv1d.weight": (2 * qk + v, conv_size),
        "b_proj.weight": (num_value_heads, hidden_size),
        "g_proj.weight": (v, hidden_size),
        "decay_gate.proj.weight": (num_value_heads, hidden_size),
        "out_norm.weight": (head_v_dim,),
        "o_proj.weight": (hidden_size, v),
    }
    if decay_gate["type"] == "mamba":
        shapes |= {"decay_gate.A_log": (num_value_heads,), "decay_gate.dt_bias": (num_value_heads,)}
    require_parameters(parameters, shapes, like=hidden_states)
    x = hidden_states
    if attention_mask is not None:
        _check_mask(attention_mask, hidden_states)
        x = x * attention_mask.unsqueeze(-1)

    qkv = short_conv(x @ parameters["qkv_proj.weight"].mT, parameters["qkv_conv1d.weight"])
    query, key, value = qkv[..., :qk], qkv[..., qk : 2 * qk], qkv[..., 2 * qk :]
    out = gated_delta_rule(
        query.reshape(B, T, num_query_key_heads, head_qk_dim),
        key.reshape(B, T, num_query_key_heads, head_qk_dim),
        value.reshape(B, T, num_value_heads, head_v_dim),
        _log_decay(x, parameters, decay_gate),
        sigmoid(x @ parameters["b_proj.weight"].mT),
        scale=head_qk_dim**-0.5,
        normalize_qk=use_qk_l2norm,
    ).out
    out = rms_norm(out, parameters["out_norm.weight"], eps=norm_eps).flatten(2)
    return silu_mul(x @ parameters["g_proj.weight"].mT, out) @ parameters["o_proj.weight"].mT


def _log_decay(x: Tensor, parameters: Mapping[str, Tensor], decay_gate: Mapping[str, Any]) -> Tensor:
    projected = x @ parameters["decay_gate.proj.weight"].mT
    if decay_gate["type"] == "mamba":
        return mamba_decay(projected, parameters["decay_gate.A_log"], parameters["decay_gate.dt_bias"])
    return log_sigmoid_decay(projected, normalizer=decay_gate["normalizer"])


def _check_gate(decay_gate: Mapping[str, Any]) -> None:
    kind = decay_gate.get("type")
    if kind not in {"mamba", "logsigmoid"}:
        raise ValueError(f"decay_gate['type']: got {kind!r}, expected 'mamba' or 'logsigmoid'")
    if kind == "logsigmoid" and "normalizer" not in decay_gate:
        raise ValueError(f"decay_gate: got keys {sorted(decay_gate)}, expected 'normalizer' among them")
    if kind == "logsigmoid":
        require_positive("decay_gate['normalizer']", decay_gate["normalizer"])


def _check_mask(attention_mask: Tensor, hidden_states: Tensor) -> None:
    B, T, _ = hidden_states.shape
    if isinstance(attention_mask, Tensor) and attention_mask.dtype == torch.bool:
        require_bool("attention_mask", attention_mask, device=hidden_states.device)
    else:
        require_floats(hidden_states=hidden_states, attention_mask=attention_mask)
    require_shape("attention_mask", attention_mask, B=B, T=T)
