"""Grouped-query attention as a layer of kernels, each of which stores its result and the gradients that it computes.

Stages: ``q_proj, k_proj, v_proj, gate_proj``, ``q_norm, k_norm``, ``q_rope, k_rope``, ``attention``, ``gate`` (the
logistic function), ``gated`` (the product with it), ``o_proj``; their points are those of the operations, and
``.stored``.
``hidden_states.*`` are the gradients that the projections store and their additions.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from harness.emulators import attention, linear
from harness.emulators.arithmetic import Arithmetic
from harness.emulators.layer_parts import normed, projected, rotated, uses
from harness.emulators.parts import stage, stored_sigmoid

__all__ = ["emulate"]


def emulate(arithmetic: Arithmetic, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns ``{"out": (K,B,T,hidden_size)}`` before the final store, differentiable.

    Args:
        arithmetic: the recipe and what happens at its rounding points.
        tensors: ``hidden_states``, ``cos``, ``sin`` and the parameters with the sample axis; ``attention_mask`` (B, T),
            boolean, without.
        options: the layer's arguments.
    """
    is_gated = bool(options.get("enable_output_gate", False))
    hidden = uses(arithmetic, "hidden_states", tensors["hidden_states"], 4 if is_gated else 3)
    cos, sin = uses(arithmetic, "cos", tensors["cos"], 2), uses(arithmetic, "sin", tensors["sin"], 2)
    width = int(options["head_dim"])

    def heads(index: int, name: str) -> Tensor:
        flat = projected(arithmetic, f"{name}_proj", hidden[index], tensors[f"{name}_proj.weight"])
        return torch.unflatten(flat, -1, (-1, width))

    query = _positioned(arithmetic, "q", heads(0, "q"), (cos[0], sin[0]), tensors, options)
    key = _positioned(arithmetic, "k", heads(1, "k"), (cos[1], sin[1]), tensors, options)
    parts = {"query": query, "key": key, "value": heads(2, "v")}
    if tensors.get("attention_mask") is not None:
        parts["key_mask"] = tensors["attention_mask"]
    window = (None, 0) if options["is_causal"] else (None, None)
    out = attention.emulate(stage(arithmetic, "attention"), parts, {"scale": width**-0.5, "window": window})["out"]
    out = arithmetic.store("attention.stored", out.flatten(-2))
    if is_gated:
        logits = projected(arithmetic, "gate_proj", hidden[3], tensors["gate_proj.weight"])
        out = arithmetic.store("gated.stored", out * stored_sigmoid(arithmetic, "gate", logits))
    return linear.emulate(stage(arithmetic, "o_proj"), {"x": out, "weight": tensors["o_proj.weight"]}, {})


def _positioned(
    arithmetic: Arithmetic,
    name: str,
    x: Tensor,
    tables: tuple[Tensor, Tensor],
    tensors: Mapping[str, Tensor],
    options: Mapping[str, Any],
) -> Tensor:
    """Returns queries or keys after their norm and rotary embedding."""
    eps = options["qk_norm_eps"]
    if eps is not None:
        zero_centered = bool(options.get("qk_norm_zero_centered", False))
        x = normed(
            arithmetic, f"{name}_norm", x, tensors[f"{name}_norm.weight"], eps=float(eps), zero_centered=zero_centered
        )
    width = tables[0].shape[-1]
    turned = rotated(arithmetic, f"{name}_rope", x[..., :width], tables[0], tables[1], style=str(options["rope_style"]))
    return torch.cat((turned, x[..., width:]), -1) if width < x.shape[-1] else turned
