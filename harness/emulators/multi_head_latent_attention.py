"""Multi-head latent attention as a layer of kernels, each of which stores its result and the gradients it computes.

Stages: ``q_proj`` (with ``q_lora_rank`` the stages of ``low_rank_projection`` under it), ``kv_down_proj``,
``kv_down_norm``, ``kv_up_proj``, ``q_rope``, ``k_rope``, ``k_rope.heads`` (the shared key's gradient, stored per head
and summed), ``attention``, ``o_proj``; their points are those of the operations, and ``.stored``. ``hidden_states.*``
are the gradients that meet in the input.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from harness.emulators import attention, linear, low_rank_projection
from harness.emulators.arithmetic import Arithmetic
from harness.emulators.layer_parts import normed, projected, rotated, uses
from harness.emulators.parts import gradient_stored, stage

__all__ = ["emulate"]


def emulate(arithmetic: Arithmetic, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns ``{"out": (K,B,T,hidden_size)}`` before the final store, differentiable.

    Args:
        arithmetic: the recipe and what happens at its rounding points.
        tensors: ``hidden_states``, ``cos``, ``sin`` and the parameters with the sample axis; ``attention_mask`` (B, T),
            boolean, without.
        options: the layer's arguments.
    """
    heads, nope = int(options["num_attention_heads"]), int(options["qk_nope_head_dim"])
    rank, style = int(options["kv_lora_rank"]), str(options["rope_style"])
    hidden = uses(arithmetic, "hidden_states", tensors["hidden_states"], 2)
    cos, sin = uses(arithmetic, "cos", tensors["cos"], 2), uses(arithmetic, "sin", tensors["sin"], 2)

    query = torch.unflatten(_query(arithmetic, hidden[0], tensors, options), -1, (heads, -1))
    query_rope = rotated(arithmetic, "q_rope", query[..., nope:], cos[0], sin[0], style=style)
    down = projected(arithmetic, "kv_down_proj", hidden[1], tensors["kv_down_proj.weight"])
    eps = float(options["qk_down_norm_eps"])
    latent = normed(arithmetic, "kv_down_norm", down[..., :rank], tensors["kv_down_norm.weight"], eps=eps)
    up = torch.unflatten(projected(arithmetic, "kv_up_proj", latent, tensors["kv_up_proj.weight"]), -1, (heads, -1))
    key_rope = rotated(arithmetic, "k_rope", down[..., rank:].unsqueeze(-2), cos[1], sin[1], style=style)
    key_rope = arithmetic.spread("k_rope.heads", key_rope, (*key_rope.shape[:3], heads, key_rope.shape[-1]))

    parts = {
        "query": torch.cat((query[..., :nope], query_rope), -1),
        "key": torch.cat((up[..., :nope], gradient_stored(arithmetic, "k_rope.heads.each", key_rope)), -1),
        "value": up[..., nope:],
    }
    if tensors.get("attention_mask") is not None:
        parts["key_mask"] = tensors["attention_mask"]
    arguments = {
        "scale": parts["query"].shape[-1] ** -0.5,
        "window": (None, 0) if options["is_causal"] else (None, None),
    }
    out = attention.emulate(stage(arithmetic, "attention"), parts, arguments)["out"]
    out = arithmetic.store("attention.stored", out.flatten(-2))
    return linear.emulate(stage(arithmetic, "o_proj"), {"x": out, "weight": tensors["o_proj.weight"]}, {})


def _query(arithmetic: Arithmetic, hidden: Tensor, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> Tensor:
    """Returns the stored queries, all heads in one axis."""
    if options.get("q_lora_rank") is None:
        return projected(arithmetic, "q_proj", hidden, tensors["q_proj.weight"])
    own = {name: tensors[f"q_proj.{name}"] for name in ("down_proj.weight", "norm.weight", "up_proj.weight")}
    out = low_rank_projection.emulate(
        stage(arithmetic, "q_proj"), {"hidden_states": hidden, **own}, {"norm_eps": options["qk_down_norm_eps"]}
    )["out"]
    return arithmetic.store("q_proj.stored", out)
