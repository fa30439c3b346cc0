"""Multi-head latent attention as it is decoded: keys and values are never built.

The up-projection of the keys is absorbed into the query and that of the values is applied after the average, so that
attention runs over the latent and the shared rope key.

Source: DeepSeek-AI, "DeepSeek-V2" (2024), section 2.1.2.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tests.reference.second.complex_rotation import rotate

__all__ = ["absorbed_latent_attention"]


def absorbed_latent_attention(
    x: Tensor, parameters: Mapping[str, Tensor], angles: Tensor, config: Mapping[str, Any]
) -> Tensor:
    """Returns the layer's output; angles ``(B, T, rope/2)``, one per pair."""
    heads, nope, rank = config["num_attention_heads"], config["qk_nope_head_dim"], config["kv_lora_rank"]
    rotated, style, eps = config["qk_rope_head_dim"], config["rope_style"], config["qk_down_norm_eps"]
    B, T, _ = x.shape
    query = _query(x, parameters, eps).view(B, T, heads, nope + rotated)
    down = functional.linear(x, parameters["kv_down_proj.weight"])
    latent = functional.rms_norm(down[..., :rank], (rank,), parameters["kv_down_norm.weight"], eps)
    up = parameters["kv_up_proj.weight"].view(heads, -1, rank)
    absorbed = torch.einsum("bthn,hnr->bthr", query[..., :nope], up[:, :nope])
    logits = torch.einsum("bthr,bsr->bhts", absorbed, latent)
    q_rope = rotate(query[..., nope:], angles, style=style)
    k_rope = rotate(down[:, :, None, rank:], angles, style=style)[:, :, 0]
    logits = (logits + torch.einsum("bthr,bsr->bhts", q_rope, k_rope)) / (nope + rotated) ** 0.5
    if config["is_causal"]:
        logits = logits + torch.full((T, T), -torch.inf, dtype=torch.float64).triu(1)
    average = torch.einsum("bhts,bsr->bthr", logits.softmax(-1), latent)
    out = torch.einsum("bthr,hvr->bthv", average, up[:, nope:])
    return functional.linear(out.reshape(B, T, -1), parameters["o_proj.weight"])


def _query(x: Tensor, parameters: Mapping[str, Tensor], eps: float) -> Tensor:
    if "q_proj.weight" in parameters:
        return functional.linear(x, parameters["q_proj.weight"])
    down = functional.linear(x, parameters["q_proj.down_proj.weight"])
    normed = functional.rms_norm(down, (down.shape[-1],), parameters["q_proj.norm.weight"], eps)
    return functional.linear(normed, parameters["q_proj.up_proj.weight"])
