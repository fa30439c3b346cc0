"""Random float64 inputs from a seed, and small configurations of the layers."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "DELTA_NET",
    "GROUPED",
    "LATENT",
    "LOW_RANK",
    "DeltaRuleInputs",
    "delta_net_shapes",
    "delta_rule_inputs",
    "grouped_shapes",
    "latent_shapes",
    "low_rank_shapes",
    "normal",
    "parameters_of",
    "tables",
]

Shapes = dict[str, tuple[int, ...]]

LOW_RANK: dict[str, Any] = {"in_features": 5, "bottleneck": 3, "out_features": 4, "norm_eps": 1e-5}
GROUPED: dict[str, Any] = {
    "hidden_size": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "qk_norm_eps": 1e-5,
    "is_causal": True,
    "rope_style": "half",
    "rope_dim": 4,
    "enable_output_gate": True,
}
LATENT: dict[str, Any] = {
    "hidden_size": 5,
    "num_attention_heads": 2,
    "qk_nope_head_dim": 3,
    "qk_rope_head_dim": 4,
    "v_head_dim": 9,
    "kv_lora_rank": 5,
    "q_lora_rank": 3,
    "qk_down_norm_eps": 1e-5,
    "is_causal": True,
    "rope_style": "interleaved",
}
DELTA_NET: dict[str, Any] = {
    "hidden_size": 5,
    "num_query_key_heads": 2,
    "num_value_heads": 4,
    "head_qk_dim": 3,
    "head_v_dim": 2,
    "norm_eps": 1e-5,
    "conv_size": 3,
    "decay_gate": {"type": "mamba", "normalizer": 16.0, "dt_min": 1e-3, "dt_max": 0.1, "dt_init_floor": 1e-4},
}


def normal(*shape: int, seed: int, requires_grad: bool = True) -> Tensor:
    """Returns standard normal float64 values."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_(requires_grad)


def tables(B: int, T: int, R: int, *, style: str, seed: int) -> tuple[Tensor, Tensor]:
    """Returns cosines and sines of random angles in the layout of a style."""
    angles = normal(B, T, R // 2, seed=seed, requires_grad=False)
    angles = torch.cat((angles, angles), -1) if style == "half" else angles.repeat_interleave(2, -1)
    return angles.cos(), angles.sin()


class DeltaRuleInputs(NamedTuple):
    """Positional arguments of the gated delta rule and an initial state."""

    query: Tensor
    key: Tensor
    value: Tensor
    log_decay: Tensor
    beta: Tensor
    initial_state: Tensor


def delta_rule_inputs(B: int, T: int, G: int, H: int, D: int, V: int, *, seed: int = 0) -> DeltaRuleInputs:
    """Returns inputs of a stable rule: short keys, decays below 1 and beta within (0, 1)."""
    return DeltaRuleInputs(
        normal(B, T, G, D, seed=seed),
        (normal(B, T, G, D, seed=seed + 1) / (2 * math.sqrt(D))).detach().requires_grad_(),
        normal(B, T, H, V, seed=seed + 2),
        (-normal(B, T, H, seed=seed + 3).abs() / 4).detach().requires_grad_(),
        normal(B, T, H, seed=seed + 4).sigmoid().detach().requires_grad_(),
        normal(B, H, D, V, seed=seed + 5),
    )


def parameters_of(shapes: Shapes, *, seed: int) -> dict[str, Tensor]:
    """Returns a random tensor per parameter; matrices are scaled to keep magnitudes of order one."""
    return {
        name: (normal(*shape, seed=seed + i) / (math.sqrt(shape[-1]) if len(shape) > 1 else 1))
        .detach()
        .requires_grad_()
        for i, (name, shape) in enumerate(shapes.items())
    }


def low_rank_shapes(config: Mapping[str, Any] = LOW_RANK) -> Shapes:
    """Parameter shapes of a low-rank projection."""
    return {
        "down_proj.weight": (config["bottleneck"], config["in_features"]),
        "norm.weight": (config["bottleneck"],),
        "up_proj.weight": (config["out_features"], config["bottleneck"]),
    }


def grouped_shapes(config: Mapping[str, Any] = GROUPED) -> Shapes:
    """Parameter shapes of grouped-query attention."""
    hidden, width = config["hidden_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * width, config["num_key_value_heads"] * width
    shapes: Shapes = {
        "q_proj.weight": (q, hidden),
        "k_proj.weight": (kv, hidden),
        "v_proj.weight": (kv, hidden),
        "o_proj.weight": (hidden, q),
    }
    if config["qk_norm_eps"] is not None:
        shapes |= {"q_norm.weight": (width,), "k_norm.weight": (width,)}
    if config.get("enable_output_gate"):
        shapes["gate_proj.weight"] = (q, hidden)
    return shapes


def latent_shapes(config: Mapping[str, Any] = LATENT) -> Shapes:
    """Parameter shapes of multi-head latent attention."""
    hidden, heads, rank = config["hidden_size"], config["num_attention_heads"], config["q_lora_rank"]
    nope, rotated, v = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    latent = config["kv_lora_rank"]
    shapes: Shapes = {
        "kv_down_proj.weight": (latent + rotated, hidden),
        "kv_down_norm.weight": (latent,),
        "kv_up_proj.weight": (heads * (nope + v), latent),
        "o_proj.weight": (hidden, heads * v),
    }
    if rank is None:
        return shapes | {"q_proj.weight": (heads * (nope + rotated), hidden)}
    return shapes | {
        "q_proj.down_proj.weight": (rank, hidden),
        "q_proj.norm.weight": (rank,),
        "q_proj.up_proj.weight": (heads * (nope + rotated), rank),
    }


def delta_net_shapes(config: Mapping[str, Any] = DELTA_NET) -> Shapes:
    """Parameter shapes of Gated DeltaNet."""
    hidden, H = config["hidden_size"], config["num_value_heads"]
    v = H * config["head_v_dim"]
    channels = 2 * config["num_query_key_heads"] * config["head_qk_dim"] + v
    shapes: Shapes = {
        "qkv_proj.weight": (channels, hidden),
        "qkv_conv1d.weight": (channels, config["conv_size"]),
        "b_proj.weight": (H, hidden),
        "g_proj.weight": (v, hidden),
        "decay_gate.proj.weight": (H, hidden),
        "out_norm.weight": (config["head_v_dim"],),
        "o_proj.weight": (hidden, v),
    }
    if config["decay_gate"]["type"] == "mamba":
        shapes |= {"decay_gate.A_log": (H,), "decay_gate.dt_bias": (H,)}
    return shapes
