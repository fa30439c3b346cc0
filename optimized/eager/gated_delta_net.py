"""The Gated DeltaNet layer in plain torch: every operation's result is stored in the dtype of the inputs.

Letters: B batch, T tokens, G query/key heads, H value heads, D query/key head width, V value head width, K taps.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from optimized.eager.checks import check_multiple, check_parameters, check_shape, check_width
from optimized.eager.gated_delta_rule import gated_delta_rule
from optimized.eager.log_sigmoid_decay import log_sigmoid_decay
from optimized.eager.mamba_decay import mamba_decay
from optimized.eager.rms_norm import rms_norm
from optimized.eager.short_conv import short_conv
from optimized.eager.silu_mul import silu_mul

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
    """Computes projection, ``short_conv``, ``gated_delta_rule`` of scale ``D^-0.5``, norm, gate and ``o_proj``.

    Args:
        hidden_states: shape (B, T, hidden_size).
        attention_mask: None, or (B, T), multiplies ``hidden_states`` first.
        parameters: ``qkv_proj.weight`` (2 G D + H V, hidden_size), ``qkv_conv1d.weight`` (2 G D + H V, K),
            ``b_proj.weight`` and ``decay_gate.proj.weight`` (H, hidden_size), ``g_proj.weight`` (H V, hidden_size),
            ``out_norm.weight`` (V,), ``o_proj.weight`` (hidden_size, H V), and for the Mamba gate
            ``decay_gate.A_log`` and ``decay_gate.dt_bias`` (H,).
        hidden_size: width of input and output.
        num_query_key_heads: G, a divisor of H.
        num_value_heads: H.
        head_qk_dim: D.
        head_v_dim: V.
        norm_eps: eps of the norm of the heads.
        conv_size: K.
        decay_gate: ``{"type": "mamba", ...}`` or ``{"type": "logsigmoid", "normalizer": ...}``; what only the
            initialisation needs is ignored.
        use_qk_l2norm: whether queries and keys are normalised.

    Returns:
        Shape (B, T, hidden_size), dtype of ``hidden_states``.

    Raises:
        ValueError: a shape disagrees, H is no multiple of G or the gate is unknown.

    Source: Yang et al., "Gated Delta Networks", section 3.4; the layer ``GatedDeltaNet`` of d9d.
    """
    G, H, D, V = num_query_key_heads, num_value_heads, head_qk_dim, head_v_dim
    check_width("hidden_states", hidden_states, hidden_size)
    check_multiple("num_value_heads", H, G)
    gate = decay_gate.get("type")
    if gate not in ("mamba", "logsigmoid"):
        raise ValueError(f"decay_gate: got type {gate!r}, expected 'mamba' or 'logsigmoid'")
    check_parameters(
        parameters,
        {
            "qkv_proj.weight": (2 * G * D + H * V, hidden_size),
            "qkv_conv1d.weight": (2 * G * D + H * V, conv_size),
            "b_proj.weight": (H, hidden_size),
            "g_proj.weight": (H * V, hidden_size),
            "decay_gate.proj.weight": (H, hidden_size),
            "out_norm.weight": (V,),
            "o_proj.weight": (hidden_size, H * V),
            **({"decay_gate.A_log": (H,), "decay_gate.dt_bias": (H,)} if gate == "mamba" else {}),
        },
    )
    if attention_mask is not None:
        check_shape("attention_mask", attention_mask, tuple(hidden_states.shape[:2]))
        column = attention_mask.unsqueeze(-1)
        if attention_mask.is_floating_point():
            hidden_states = hidden_states * column.to(hidden_states.dtype)
        else:
            hidden_states = hidden_states.masked_fill(column == 0, 0.0)
    mixed = short_conv(functional.linear(hidden_states, parameters["qkv_proj.weight"]), parameters["qkv_conv1d.weight"])
    query, key, value = torch.split(mixed, [G * D, G * D, H * V], dim=-1)
    out = gated_delta_rule(
        torch.unflatten(query, -1, (G, D)),
        torch.unflatten(key, -1, (G, D)),
        torch.unflatten(value, -1, (H, V)),
        _log_decay(hidden_states, parameters, decay_gate=decay_gate),
        torch.sigmoid(functional.linear(hidden_states, parameters["b_proj.weight"])),
        scale=D**-0.5,
        normalize_qk=use_qk_l2norm,
    ).out
    normed = rms_norm(out, parameters["out_norm.weight"], eps=norm_eps).flatten(2)
    gated = silu_mul(functional.linear(hidden_states, parameters["g_proj.weight"]), normed)
    return functional.linear(gated, parameters["o_proj.weight"])


def _log_decay(hidden_states: Tensor, parameters: Mapping[str, Tensor], *, decay_gate: Mapping[str, Any]) -> Tensor:
    projected = functional.linear(hidden_states, parameters["decay_gate.proj.weight"])
    if decay_gate["type"] == "mamba":
        return mamba_decay(projected, parameters["decay_gate.A_log"], parameters["decay_gate.dt_bias"])
    return log_sigmoid_decay(projected, normalizer=float(decay_gate["normalizer"]))
