"""What kernels say about a layer's call before it is made: the sentence of the operation that cannot compute it.

Each function has the call of the layer as a function (see ``as_operations``) after the name of the backend, and returns
None or that sentence: of the attention or the delta rule that the layer rests on, or of a norm or a convolution in it.
The tensors in the middle of a layer do not exist yet: shape, dtype and device stand for them.

Letters: B batch, T tokens, H query or value heads, G key/value or query/key heads, D query/key head width, V value head
width.
"""

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module

from torch import Tensor

__all__ = [
    "flash4_flash_sdpa",
    "flash4_grouped_query_attention",
    "flash4_multi_head_latent_attention",
    "triton_flash_sdpa",
    "triton_gated_delta_net",
    "triton_grouped_query_attention",
    "triton_low_rank_projection",
    "triton_multi_head_latent_attention",
]

_ATTENTION = {"flash4": "optimized.flash4", "triton": "optimized.attention"}


def _flash_sdpa(
    backend: str,
    query_states: Tensor,
    key_states: Tensor,
    value_states: Tensor,
    attention_mask: Tensor | None,
    parameters: Mapping[str, Tensor],
    *,
    is_causal: bool,
    scale: float,
    num_sinks: int | None = None,
    window_size: int | None = None,
) -> str | None:
    del num_sinks
    sentence: str | None = import_module(_ATTENTION[backend]).supports(
        query_states,
        key_states,
        value_states,
        scale=scale,
        window=(window_size, 0) if is_causal else (None, None),
        sinks=parameters.get("sinks"),
        key_mask=attention_mask,
    )
    return sentence


def _grouped_query_attention(
    backend: str,
    hidden_states: Tensor,
    attention_mask: Tensor | None,
    position_embeddings: tuple[Tensor, Tensor],
    parameters: Mapping[str, Tensor],
    *,
    num_attention_heads: int,
    num_key_value_heads: int,
    head_dim: int,
    is_causal: bool,
    **others: object,
) -> str | None:
    del position_embeddings, others
    stand_in = _StandIns(hidden_states, parameters)
    query = stand_in(num_attention_heads, head_dim)
    key = value = stand_in(num_key_value_heads, head_dim)
    scale = head_dim**-0.5
    sentence = _flash_sdpa(backend, query, key, value, attention_mask, {}, is_causal=is_causal, scale=scale)
    return sentence or _norms(stand_in, parameters)


def _multi_head_latent_attention(
    backend: str,
    hidden_states: Tensor,
    attention_mask: Tensor | None,
    position_embeddings: tuple[Tensor, Tensor],
    parameters: Mapping[str, Tensor],
    *,
    num_attention_heads: int,
    qk_nope_head_dim: int,
    qk_rope_head_dim: int,
    v_head_dim: int,
    is_causal: bool,
    **others: object,
) -> str | None:
    del position_embeddings, others
    stand_in, width = _StandIns(hidden_states, parameters), qk_nope_head_dim + qk_rope_head_dim
    query = key = stand_in(num_attention_heads, width)
    value = stand_in(num_attention_heads, v_head_dim)
    sentence = _flash_sdpa(backend, query, key, value, attention_mask, {}, is_causal=is_causal, scale=width**-0.5)
    return sentence or _norms(stand_in, parameters)


def _gated_delta_net(
    hidden_states: Tensor,
    attention_mask: Tensor | None,
    parameters: Mapping[str, Tensor],
    *,
    num_query_key_heads: int,
    num_value_heads: int,
    head_qk_dim: int,
    head_v_dim: int,
    **others: object,
) -> str | None:
    del attention_mask, others
    stand_in = _StandIns(hidden_states, parameters)
    query = key = stand_in(num_query_key_heads, head_qk_dim)
    value, beta = stand_in(num_value_heads, head_v_dim), stand_in(num_value_heads)
    rule = import_module("optimized.gated_delta_rule")
    sentence: str | None = rule.supports(query, key, value, beta, beta, scale=head_qk_dim**-0.5)
    weight = parameters["qkv_conv1d.weight"]
    return sentence or import_module("optimized.short_conv").supports(stand_in(weight.shape[0]), weight)


def _low_rank_projection(hidden_states: Tensor, parameters: Mapping[str, Tensor], **config: object) -> str | None:
    del config
    return _norms(_StandIns(hidden_states, parameters), parameters)


def _norms(stand_in: "_StandIns", parameters: Mapping[str, Tensor]) -> str | None:
    """Returns what the kernels say about the first norm of a layer that they cannot compute."""
    norm = import_module("optimized.rms_norm")
    weights = [parameter for name, parameter in parameters.items() if name.endswith("norm.weight")]
    sentences: list[str | None] = [norm.supports(stand_in(*weight.shape), weight, eps=1.0) for weight in weights]
    return next(filter(None, sentences), None)


class _StandIns:
    """Makes tensors of a shape, dtype and device, without memory, that require gradients if an input of them does."""

    def __init__(self, hidden_states: Tensor, parameters: Mapping[str, Tensor]) -> None:
        self._tokens = hidden_states.shape[:-1]
        self._number = hidden_states.new_zeros(())
        self._number.requires_grad_(any(x.requires_grad for x in (hidden_states, *parameters.values())))

    def __call__(self, *heads: int) -> Tensor:
        return self._number.expand(*self._tokens, *heads)


flash4_flash_sdpa: Callable[..., str | None] = partial(_flash_sdpa, "flash4")
flash4_grouped_query_attention: Callable[..., str | None] = partial(_grouped_query_attention, "flash4")
flash4_multi_head_latent_attention: Callable[..., str | None] = partial(_multi_head_latent_attention, "flash4")
triton_flash_sdpa: Callable[..., str | None] = partial(_flash_sdpa, "triton")
triton_gated_delta_net: Callable[..., str | None] = _gated_delta_net
triton_grouped_query_attention: Callable[..., str | None] = partial(_grouped_query_attention, "triton")
triton_low_rank_projection: Callable[..., str | None] = _low_rank_projection
triton_multi_head_latent_attention: Callable[..., str | None] = partial(_multi_head_latent_attention, "triton")
