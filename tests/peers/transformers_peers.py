"""Plug-in of transformers: ``attest fuzz --op grouped_query_attention --plugin tests/peers/transformers_peers.py``.

Layers of models with their own masks and attention code, eager and by torch's SDPA, and what they are made of. Recipes
say what the code does: plain torch, every tensor stored in the dtype of the model, norms and delta rules in float32.
"""

import functools
from typing import Any

from optimized.candidate import Candidate, Recipe
from tests.peers.peer import LAYERED, each, layered, only, stored, widened
from tests.peers.transformers_attention import deepseek, gpt_oss_attention, gpt_oss_sdpa, grouped
from tests.peers.transformers_linear import delta_net, delta_rule, has_its_own_scale
from tests.peers.transformers_parts import (
    gated_norm,
    l2_norm,
    norm,
    rope,
    rope_deepseek_v2,
    rope_deepseek_v3,
    tables,
)

__all__ = ["CANDIDATES"]


def delta(storage: str) -> Recipe:
    """Returns the recipe of a layer whose delta rule is in float32, between tensors in the dtype of the model."""
    return Recipe(storage=storage, operand=storage, accumulator="float32", intermediates=storage)


def with_sinks(*_: Any, sinks: Any = None, bias: Any = None, **__: Any) -> str | None:
    """Refuses calls without sinks, which gpt-oss always has, and with a bias, which it never has."""
    if sinks is None:
        return "sinks: got None, expected a tensor: the model always has them"
    return None if bias is None else "bias: got a tensor, expected None"


_each = functools.partial(each, needs=("transformers",), formats=LAYERED)
_EPS = (1e-6, 1e-5)
_PLAIN = only(is_causal=True, rope_style="half", rope_dim=None, enable_output_gate=False, qk_norm_zero_centered=False,
              qk_norm_eps=_EPS)  # fmt: skip
_BARE = only(is_causal=True, rope_style="half", rope_dim=None, enable_output_gate=False, qk_norm_eps=None)
_GATED = only(is_causal=True, rope_style="half", enable_output_gate=True, qk_norm_zero_centered=True, qk_norm_eps=_EPS)
_LATENT_V2 = only(is_causal=True, rope_style="interleaved", qk_down_norm_eps=1e-6)
_LATENT_V3 = only(is_causal=True, qk_down_norm_eps=1e-6)
_SINKS = only(is_causal=True)
_RULE = (only(cu_seqlens=None), has_its_own_scale)


def is_mamba(*_: Any, decay_gate: dict[str, Any], use_qk_l2norm: bool = True, **__: Any) -> str | None:
    """Refuses the log-sigmoid gate, and keys that are not normalised."""
    if decay_gate["type"] != "mamba":
        return f"decay_gate: got {decay_gate['type']}, expected mamba"
    return None if use_qk_l2norm else "use_qk_l2norm: got False, expected True"


def own_sinks(*tensors: Any, num_sinks: int | None = None, **_: Any) -> str | None:
    """Refuses a layer without sinks, and other numbers of queries than keys, which the model's masks do not know."""
    if num_sinks is None:
        return "num_sinks: got None, expected the number of heads: the model always has sinks"
    query, key = tensors[:2]
    if query.shape[1] != key.shape[1]:
        return f"tokens: got {query.shape[1]} queries and {key.shape[1]} keys, expected as many of both"
    return None


def no_ntk(*_: Any, scaling: dict[str, Any] | None = None, **__: Any) -> str | None:
    """Refuses NTK scaling with a factor: transformers' ``dynamic`` takes it from the length of the sequence."""
    is_ntk = scaling is not None and scaling["type"] == "ntk"
    return "scaling: got ntk, expected None, linear or yarn" if is_ntk else None


def whole_heads(hidden_states: Any, *_: Any, hidden_size: int, num_attention_heads: int, **__: Any) -> str | None:
    """Refuses what DeepSeek-V2's configuration refuses: heads that do not divide the hidden size."""
    del hidden_states
    if hidden_size % num_attention_heads == 0:
        return None
    return f"hidden_size: got {hidden_size}, expected a multiple of num_attention_heads = {num_attention_heads}"


_LLAMA = ("llama", "Llama")
_QWEN3 = ("qwen3", "Qwen3")
_NEXT = ("qwen3_next", "Qwen3Next")
_GQA, _MLA, _GDN = "grouped_query_attention", "multi_head_latent_attention", "gated_delta_net"

# fmt: off
CANDIDATES: tuple[Candidate, ...] = (
    *_each("transformers-llama-attention", _GQA, grouped(*_LLAMA), stored, refusals=(_BARE,)),
    *_each("transformers-qwen3-attention", _GQA, grouped(*_QWEN3), stored, refusals=(_PLAIN,)),
    *_each("transformers-qwen3-attention-sdpa", _GQA, grouped(*_QWEN3, implementation="sdpa"), layered,
           refusals=(_PLAIN,)),
    *_each("transformers-qwen3-next-attention", _GQA, grouped(*_NEXT, is_gated=True), stored, refusals=(_GATED,)),
    *_each("transformers-qwen3-next-attention-sdpa", _GQA, grouped(*_NEXT, is_gated=True, implementation="sdpa"),
           layered, refusals=(_GATED,)),
    *_each("transformers-deepseek-v2", _MLA, deepseek(2), stored, refusals=(_LATENT_V2, whole_heads)),
    *_each("transformers-deepseek-v3", _MLA, deepseek(3), stored, refusals=(_LATENT_V3,)),
    *_each("transformers-deepseek-v3-sdpa", _MLA, deepseek(3, implementation="sdpa"), layered,
           refusals=(_LATENT_V3,)),
    *_each("transformers-gpt-oss", "attention", gpt_oss_attention, stored, refusals=(with_sinks,)),
    *_each("transformers-gpt-oss-layer", "flash_sdpa", gpt_oss_sdpa, stored, refusals=(_SINKS, own_sinks)),
    *_each("transformers-qwen3-next-delta-net", _GDN, delta_net(*_NEXT, "Qwen3NextConfig"), delta,
           refusals=(is_mamba,)),
    *_each("transformers-qwen3.5-delta-net", _GDN, delta_net("qwen3_5", "Qwen3_5", "Qwen3_5TextConfig"), delta,
           refusals=(is_mamba,)),
    *_each("transformers-chunk-delta-rule", "gated_delta_rule", delta_rule("chunk"), widened, refusals=_RULE),
    *_each("transformers-recurrent-delta-rule", "gated_delta_rule", delta_rule("recurrent"), widened, refusals=_RULE),
    *_each("transformers-qwen3-norm", "rms_norm", norm("qwen3", "Qwen3RMSNorm"), stored,
           refusals=(only(zero_centered=False),)),
    *_each("transformers-deepseek-v3-norm", "rms_norm", norm("deepseek_v3", "DeepseekV3RMSNorm"), stored,
           refusals=(only(zero_centered=False),)),
    *_each("transformers-gpt-oss-norm", "rms_norm", norm("gpt_oss", "GptOssRMSNorm"), widened,
           refusals=(only(zero_centered=False),)),
    *_each("transformers-qwen3-next-norm", "rms_norm", norm("qwen3_next", "Qwen3NextRMSNorm"), widened,
           refusals=(only(zero_centered=True),)),
    *_each("transformers-qwen3-next-gated-norm", "gated_rms_norm", gated_norm, stored,
           refusals=(only(zero_centered=False),)),
    *_each("transformers-l2-norm", "l2_norm", l2_norm, widened),
    *_each("transformers-rope", "rope", rope, stored, refusals=(only(style="half"),)),
    *_each("transformers-deepseek-v2-rope", "rope", rope_deepseek_v2, widened, refusals=(only(style="interleaved"),)),
    *_each("transformers-deepseek-v3-rope", "rope", rope_deepseek_v3, stored, refusals=(only(style="interleaved"),)),
    *each("transformers-rope-tables", "rope_tables", tables, widened, needs=("transformers",), formats=("float32",),
          refusals=(only(style="half"), no_ntk), differentiable=False),
)
# fmt: on
"""transformers' layers and their parts as candidates."""
