"""transformers' Gated DeltaNet: the layers of Qwen3-Next and Qwen3.5, and the delta rule in them.

Where the meaning differs: the rows of Qwen3-Next's projections stand per query/key head, ``[q | k | v | z]`` and
``[b | a]``, ours over all heads, as Qwen3.5's do; the scale is always ``D^-0.5``, keys are always normalised with 1e-6.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tests.peers.transformers_models import make, model, run

__all__ = ["delta_net", "delta_rule", "has_its_own_scale"]


def delta_rule(kind: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """Returns Qwen3-Next's delta rule: ``chunk``, which trains, or ``recurrent``, which decodes."""

    def rule(
        query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor | None, beta: Tensor, *, scale: float,
        initial_state: Tensor | None = None, normalize_qk: bool = False, cu_seqlens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        del scale, cu_seqlens  # declined where they differ
        decay = torch.zeros_like(beta) if log_decay is None else log_decay
        function = getattr(model("qwen3_next"), f"torch_{kind}_gated_delta_rule")
        out, state = function(
            query, key, value, g=decay, beta=beta, initial_state=initial_state, output_final_state=True,
            use_qk_l2norm_in_kernel=normalize_qk,
        )  # fmt: skip
        return out, state

    return rule


def has_its_own_scale(query: Tensor, *_: Any, scale: float, **__: Any) -> str | None:
    """Refuses a scale other than that of the head's width."""
    own = query.shape[-1] ** -0.5
    return None if scale == own else f"scale: got {scale}, expected {own}, which is fixed"


def delta_net(name: str, prefix: str, config_class: str) -> Callable[..., Tensor]:
    """Returns a model's Gated DeltaNet."""

    def layer(
        hidden_states: Tensor, attention_mask: Tensor | None, parameters: Mapping[str, Tensor], *, hidden_size: int,
        num_query_key_heads: int, num_value_heads: int, head_qk_dim: int, head_v_dim: int, norm_eps: float,
        conv_size: int, **_: Any,
    ) -> Tensor:  # fmt: skip
        module = model(name)
        config = getattr(module, config_class)(
            hidden_size=hidden_size, num_hidden_layers=1, rms_norm_eps=norm_eps, layer_types=["linear_attention"],
            linear_num_key_heads=num_query_key_heads, linear_num_value_heads=num_value_heads,
            linear_key_head_dim=head_qk_dim, linear_value_head_dim=head_v_dim, linear_conv_kernel_dim=conv_size,
        )  # fmt: skip
        convert = _qwen3_next if name == "qwen3_next" else _qwen3_5
        theirs = convert(parameters, num_query_key_heads, num_query_key_heads * head_qk_dim)
        mask = None if attention_mask is None else attention_mask.to(hidden_states.dtype)
        out: Tensor = run(
            make(getattr(module, f"{prefix}GatedDeltaNet"), config, layer_idx=0), theirs, hidden_states,
            attention_mask=mask,
        )  # fmt: skip
        return out

    return layer


_SHARED = {
    "A_log": "decay_gate.A_log",
    "dt_bias": "decay_gate.dt_bias",
    "norm.weight": "out_norm.weight",
    "out_proj.weight": "o_proj.weight",
}


def _shared(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns what both models call alike, the convolution with their axis of length 1."""
    return {name: ours[key] for name, key in _SHARED.items()} | {"conv1d.weight": ours["qkv_conv1d.weight"][:, None]}


def _qwen3_5(ours: Mapping[str, Tensor], groups: int, keys: int) -> dict[str, Tensor]:
    del groups, keys
    return _shared(ours) | {
        "in_proj_qkv.weight": ours["qkv_proj.weight"],
        "in_proj_z.weight": ours["g_proj.weight"],
        "in_proj_b.weight": ours["b_proj.weight"],
        "in_proj_a.weight": ours["decay_gate.proj.weight"],
    }


def _qwen3_next(ours: Mapping[str, Tensor], groups: int, keys: int) -> dict[str, Tensor]:
    def joined(*parts: Tensor) -> Tensor:
        return torch.cat([part.reshape(groups, -1, part.shape[-1]) for part in parts], 1).flatten(0, 1)

    rows = ours["qkv_proj.weight"]
    q, k, v = rows[:keys], rows[keys : 2 * keys], rows[2 * keys :]
    return _shared(ours) | {
        "in_proj_qkvz.weight": joined(q, k, v, ours["g_proj.weight"]),
        "in_proj_ba.weight": joined(ours["b_proj.weight"], ours["decay_gate.proj.weight"]),
    }
