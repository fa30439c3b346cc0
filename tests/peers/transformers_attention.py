"""transformers' attention layers behind the call of our layers: names and layouts of parameters, masks, hidden rows.

Where the meaning differs: the models are causal, so that other cases are declined; a row that sees no key is the mean
of all values in eager code, and 0 here (``rows_with_keys``); their sliding window counts the token itself; the norms of
DeepSeek's latents have ``eps = 1e-6`` whatever the configuration says; DeepSeek-V2 rotates by complex numbers, and V3
takes the angles of a pair once, in the order of halves.
"""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.peers.transformers_models import causal_mask, make, model, run
from tests.peers.visibility import Window, additive, rows_with_keys, visible

__all__ = ["deepseek", "gpt_oss_attention", "gpt_oss_sdpa", "grouped"]

Parameters = Mapping[str, Tensor]
Tables = tuple[Tensor, Tensor]

_CAUSAL: Window = (None, 0)


def grouped(name: str, prefix: str, *, is_gated: bool = False, implementation: str = "eager") -> Callable[..., Tensor]:
    """Returns a model's grouped-query attention.

    Args:
        name: of the model, ``"qwen3"``.
        prefix: of its classes, ``"Qwen3"``.
        is_gated: whether the rows of ``q_proj`` are per head ``[query | gate]``; ours are two projections.
        implementation: ``eager`` or ``sdpa``.
    """

    def layer(
        hidden_states: Tensor, attention_mask: Tensor | None, position_embeddings: Tables, parameters: Parameters,
        *, hidden_size: int, num_attention_heads: int, num_key_value_heads: int, head_dim: int,
        qk_norm_eps: float | None, **_: Any,
    ) -> Tensor:  # fmt: skip
        module = model(name)
        config = getattr(module, f"{prefix}Config")(
            hidden_size=hidden_size, num_attention_heads=num_attention_heads, head_dim=head_dim,
            num_key_value_heads=num_key_value_heads, rms_norm_eps=qk_norm_eps or 1e-6, num_hidden_layers=1,
            layer_types=["full_attention"], attn_implementation=implementation,
        )  # fmt: skip
        theirs = dict(parameters)
        if is_gated:
            per_head = [theirs[key].reshape(-1, head_dim, hidden_size) for key in ("q_proj.weight", "gate_proj.weight")]
            theirs["q_proj.weight"] = torch.cat(per_head, 1).flatten(0, 1)
            del theirs["gate_proj.weight"]
        mask = causal_mask(config, hidden_states, attention_mask)
        made = make(getattr(module, f"{prefix}Attention"), config, layer_idx=0)
        out = run(made, theirs, hidden_states, position_embeddings=position_embeddings, attention_mask=mask)[0]
        return _with_hidden_rows(out, hidden_states, attention_mask, implementation)

    return layer


_NAMES = {
    "q_proj.weight": "q_proj.weight",
    "q_proj.down_proj.weight": "q_a_proj.weight",
    "q_proj.norm.weight": "q_a_layernorm.weight",
    "q_proj.up_proj.weight": "q_b_proj.weight",
    "kv_down_proj.weight": "kv_a_proj_with_mqa.weight",
    "kv_down_norm.weight": "kv_a_layernorm.weight",
    "kv_up_proj.weight": "kv_b_proj.weight",
    "o_proj.weight": "o_proj.weight",
}
"""Ours are called down and up, theirs a and b; the order of the rows is the same."""


def deepseek(version: int, *, implementation: str = "eager") -> Callable[..., Tensor]:
    """Returns DeepSeek-V2's or V3's latent attention."""
    prefix = f"DeepseekV{version}"

    def layer(
        hidden_states: Tensor, attention_mask: Tensor | None, position_embeddings: Tables, parameters: Parameters,
        *, qk_down_norm_eps: float, is_causal: bool, rope_style: str, num_attention_heads: int, **sizes: Any,
    ) -> Tensor:  # fmt: skip
        del qk_down_norm_eps, is_causal  # declined where they differ
        module = model(f"deepseek_v{version}")
        options = {} if version == 2 else {"rope_interleave": rope_style == "interleaved"}
        config = getattr(module, f"{prefix}Config")(
            **sizes, **options, num_attention_heads=num_attention_heads, num_key_value_heads=num_attention_heads,
            num_hidden_layers=1, attn_implementation=implementation,
        )  # fmt: skip
        mask = causal_mask(config, hidden_states, attention_mask)
        out = run(
            make(getattr(module, f"{prefix}Attention"), config, layer_idx=0),
            {_NAMES[key]: value for key, value in parameters.items()},
            hidden_states,
            position_embeddings=_deepseek_tables(version, rope_style, position_embeddings),
            attention_mask=mask,
        )[0]
        return _with_hidden_rows(out, hidden_states, attention_mask, implementation)

    return layer


def _deepseek_tables(version: int, rope_style: str, tables: Tables) -> Any:
    """Returns rotary tables as a version of DeepSeek wants those of interleaved pairs, others as they are."""
    if rope_style == "half":
        return tables
    cos, sin = (table[..., ::2] for table in tables)
    if version == 2:
        return torch.complex(cos.float(), sin.float())
    return torch.cat((cos, cos), -1), torch.cat((sin, sin), -1)


def _with_hidden_rows(out: Tensor, hidden_states: Tensor, key_mask: Tensor | None, implementation: str) -> Tensor:
    if key_mask is None or implementation == "sdpa":
        return out
    return rows_with_keys(out, visible(hidden_states, hidden_states, _CAUSAL, key_mask))


def gpt_oss_attention(
    query: Tensor, key: Tensor, value: Tensor, *, scale: float, window: Window = (None, None),
    sinks: Tensor | None = None, key_mask: Tensor | None = None, bias: Tensor | None = None,
) -> tuple[Tensor, None]:  # fmt: skip
    """gpt-oss' eager attention with sinks on queries, keys and values; a row without keys gives all to its sink."""
    del bias  # declined
    mask = additive(visible(query, key, window, key_mask), query.dtype)
    layer = SimpleNamespace(num_key_value_groups=query.shape[2] // key.shape[2], sinks=sinks, training=False)
    heads_first = [item.transpose(1, 2) for item in (query, key, value)]
    out, _ = model("gpt_oss").eager_attention_forward(layer, *heads_first, mask, scaling=scale)
    return out, None


def gpt_oss_sdpa(
    query_states: Tensor, key_states: Tensor, value_states: Tensor, attention_mask: Tensor | None,
    parameters: Parameters, *, is_causal: bool, scale: float, num_sinks: int | None = None,
    window_size: int | None = None,
) -> Tensor:  # fmt: skip
    """The same behind the call of ``flash_sdpa``, with the mask that the model itself makes: W + 1 there is W here."""
    del is_causal, num_sinks  # declined where they differ
    config = model("gpt_oss").GptOssConfig(
        num_hidden_layers=1, attn_implementation="eager", sliding_window=(window_size or 0) + 1,
    )  # fmt: skip
    hidden = query_states.flatten(2)
    mask = causal_mask(config, hidden, attention_mask, is_sliding=window_size is not None)
    groups = query_states.shape[2] // key_states.shape[2]
    layer = SimpleNamespace(num_key_value_groups=groups, sinks=parameters["sinks"], training=False)
    heads_first = [item.transpose(1, 2) for item in (query_states, key_states, value_states)]
    out: Tensor = model("gpt_oss").eager_attention_forward(layer, *heads_first, mask, scaling=scale)[0]
    return out
