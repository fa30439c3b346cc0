"""Grouped-query attention and Gated DeltaNet, put together from torch's own functions and the chunked delta rule."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tests.reference.second.chunked_delta_rule import chunked_delta_rule
from tests.reference.second.complex_rotation import rotate

__all__ = ["plain_delta_net", "plain_grouped_query_attention"]


def plain_grouped_query_attention(
    x: Tensor, mask: Tensor | None, parameters: Mapping[str, Tensor], angles: Tensor, config: Mapping[str, Any]
) -> Tensor:
    """Returns the layer's output; angles ``(B, T, R/2)``, one per pair; every row must see a key."""
    B, T, _ = x.shape
    heads, groups, width = (config[n] for n in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    R, eps, style = config.get("rope_dim") or width, config["qk_norm_eps"], config["rope_style"]

    def projected(name: str, number: int) -> Tensor:
        states = functional.linear(x, parameters[f"{name}_proj.weight"]).view(B, T, number, width)
        if name == "v":
            return states
        if eps is not None:
            weight = parameters[f"{name}_norm.weight"] + (1 if config.get("qk_norm_zero_centered") else 0)
            states = functional.rms_norm(states, (width,), weight, eps)
        return torch.cat((rotate(states[..., :R], angles, style=style), states[..., R:]), -1)

    q, k, v = projected("q", heads), projected("k", groups), projected("v", groups)
    seen = torch.ones(T, T, dtype=torch.bool).tril() if config["is_causal"] else torch.ones(T, T, dtype=torch.bool)
    seen = seen if mask is None else seen & mask[:, None, None, :]
    of_head = [h // (heads // groups) for h in range(heads)]
    out = functional.scaled_dot_product_attention(
        q.transpose(1, 2), k[:, :, of_head].transpose(1, 2), v[:, :, of_head].transpose(1, 2), attn_mask=seen
    )
    out = out.transpose(1, 2).reshape(B, T, heads * width)
    if config.get("enable_output_gate"):
        out = out * functional.linear(x, parameters["gate_proj.weight"]).sigmoid()
    return functional.linear(out, parameters["o_proj.weight"])


def plain_delta_net(
    x: Tensor, mask: Tensor | None, parameters: Mapping[str, Tensor], config: Mapping[str, Any], *, chunk: int
) -> Tensor:
    """Returns the layer's output."""
    B, T, _ = x.shape
    G, H = config["num_query_key_heads"], config["num_value_heads"]
    D, V, K, gate = config["head_qk_dim"], config["head_v_dim"], config["conv_size"], config["decay_gate"]
    x = x if mask is None else x.masked_fill(~mask[..., None], 0)
    qkv = functional.pad(functional.linear(x, parameters["qkv_proj.weight"]).mT, (K - 1, 0))
    qkv = functional.conv1d(qkv, parameters["qkv_conv1d.weight"].unsqueeze(1), groups=qkv.shape[1])
    q, k, v = functional.silu(qkv).mT.tensor_split((G * D, 2 * G * D), -1)
    q, k, v = q.reshape(B, T, G, D), k.reshape(B, T, G, D), v.reshape(B, T, H, V)
    if config.get("use_qk_l2norm", True):
        tiny = 1e-6
        q, k = (y * (y.pow(2).sum(-1, keepdim=True) + tiny).rsqrt() for y in (q, k))
    projected = functional.linear(x, parameters["decay_gate.proj.weight"])
    if gate["type"] == "mamba":
        step = functional.softplus(projected + parameters["decay_gate.dt_bias"])
        log_decay = -step * parameters["decay_gate.A_log"].exp()
    else:
        log_decay = functional.logsigmoid(projected) / gate["normalizer"]
    beta = functional.linear(x, parameters["b_proj.weight"]).sigmoid()
    state = torch.zeros(B, H, D, V, dtype=torch.float64)
    out, _ = chunked_delta_rule(q, k, v, log_decay, beta, state, scale=1 / math.sqrt(D), chunk=chunk)
    out = functional.rms_norm(out, (V,), parameters["out_norm.weight"], config["norm_eps"]).reshape(B, T, H * V)
    gated = functional.silu(functional.linear(x, parameters["g_proj.weight"])) * out
    return functional.linear(gated, parameters["o_proj.weight"])
