"""Gated DeltaNet as a layer of kernels, each of which stores its result and the gradients that it computes.

The log decay stays in the accumulator's format; ``beta`` is stored.

Stages: ``masked`` (only if the mask is not boolean), ``qkv_proj``, ``qkv_conv1d``, ``decay_gate.proj``, ``decay_gate``,
``b_proj``, ``beta``, ``delta_rule``, ``out_norm``, ``g_proj``, ``silu_mul``, ``o_proj``; their points are those of the
operations, and ``.stored``. ``hidden_states.*`` are the gradients that meet in the input.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from harness.emulators import gated_delta_rule, linear, log_sigmoid_decay, mamba_decay, short_conv, silu_mul
from harness.emulators.arithmetic import Arithmetic
from harness.emulators.layer_parts import normed, projected, uses
from harness.emulators.parts import stage, stored_sigmoid

__all__ = ["emulate"]


def emulate(arithmetic: Arithmetic, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns ``{"out": (K,B,T,hidden_size)}`` before the final store, differentiable.

    Args:
        arithmetic: the recipe and what happens at its rounding points.
        tensors: ``hidden_states`` and the parameters with the sample axis; ``attention_mask`` (B, T) without it if it
            is boolean.
        options: the layer's arguments.
    """
    groups, heads = int(options["num_query_key_heads"]), int(options["num_value_heads"])
    width, value_width = int(options["head_qk_dim"]), int(options["head_v_dim"])
    hidden = uses(arithmetic, "hidden_states", _masked(arithmetic, tensors), 4)

    mixed = projected(arithmetic, "qkv_proj", hidden[0], tensors["qkv_proj.weight"])
    mixed = short_conv.emulate(
        stage(arithmetic, "qkv_conv1d"), {"x": mixed, "weight": tensors["qkv_conv1d.weight"]}, {}
    )["out"]
    mixed = arithmetic.store("qkv_conv1d.stored", mixed)
    query, key, value = torch.split(mixed, [groups * width, groups * width, heads * value_width], -1)

    logits = projected(arithmetic, "b_proj", hidden[2], tensors["b_proj.weight"])
    parts = {
        "query": torch.unflatten(query, -1, (groups, width)),
        "key": torch.unflatten(key, -1, (groups, width)),
        "value": torch.unflatten(value, -1, (heads, value_width)),
        "log_decay": _log_decay(arithmetic, hidden[1], tensors, options["decay_gate"]),
        "beta": stored_sigmoid(arithmetic, "beta", logits),
    }
    arguments = {"scale": width**-0.5, "normalize_qk": bool(options.get("use_qk_l2norm", True))}
    out = gated_delta_rule.emulate(stage(arithmetic, "delta_rule"), parts, arguments)["out"]
    out = arithmetic.store("delta_rule.stored", out)

    rows = normed(arithmetic, "out_norm", out, tensors["out_norm.weight"], eps=float(options["norm_eps"]))
    gate = projected(arithmetic, "g_proj", hidden[3], tensors["g_proj.weight"])
    gated = silu_mul.emulate(stage(arithmetic, "silu_mul"), {"gate": gate, "x": rows.flatten(-2)}, {})["out"]
    gated = arithmetic.store("silu_mul.stored", gated)
    return linear.emulate(stage(arithmetic, "o_proj"), {"x": gated, "weight": tensors["o_proj.weight"]}, {})


def _masked(arithmetic: Arithmetic, tensors: Mapping[str, Tensor]) -> Tensor:
    """Returns the hidden states with those of masked tokens replaced by 0."""
    hidden, mask = tensors["hidden_states"], tensors.get("attention_mask")
    if mask is None:
        return hidden
    column = mask.reshape(-1, *hidden.shape[1:3], 1)
    if mask.is_floating_point():
        return arithmetic.store("masked", hidden * column)
    return torch.where(column != 0, hidden, torch.zeros((), dtype=hidden.dtype, device=hidden.device))


def _log_decay(
    arithmetic: Arithmetic, hidden: Tensor, tensors: Mapping[str, Tensor], gate: Mapping[str, Any]
) -> Tensor:
    """Returns the log decay of the chosen gate, in the accumulator's format."""
    x = projected(arithmetic, "decay_gate.proj", hidden, tensors["decay_gate.proj.weight"])
    inner = stage(arithmetic, "decay_gate")
    if gate["type"] == "mamba":
        parts = {"x": x, "a_log": tensors["decay_gate.A_log"], "dt_bias": tensors["decay_gate.dt_bias"]}
        out = mamba_decay.emulate(inner, parts, {})["out"]
    else:
        out = log_sigmoid_decay.emulate(inner, {"x": x}, {"normalizer": gate["normalizer"]})["out"]
    return arithmetic.wide("decay_gate.stored", out)
