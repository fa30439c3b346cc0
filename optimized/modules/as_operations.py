"""The modules as functions of tensors and a mapping of parameters, which is how layers are judged.

Each function takes a backend and returns the layer's function: forward arguments and the parameters by name are
positional, the constructor's arguments keyword-only. A call makes the module on the meta device and runs it on the
parameters that it is given.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.func import functional_call

from optimized.eager.checks import check_parameters
from optimized.modules.decay_gates import AnyDecayGateParameters
from optimized.modules.flash_sdpa import FlashSdpa
from optimized.modules.gated_delta_net import GatedDeltaNet
from optimized.modules.grouped_query_attention import GroupedQueryAttention
from optimized.modules.low_rank_projection import LowRankProjection
from optimized.modules.multi_head_latent_attention import MultiHeadLatentAttention

__all__ = [
    "flash_sdpa",
    "gated_delta_net",
    "grouped_query_attention",
    "low_rank_projection",
    "multi_head_latent_attention",
]

Layer = Callable[..., Tensor]


def low_rank_projection(*, backend: str | None) -> Layer:
    """Returns ``(hidden_states, parameters, **constructor arguments)`` of ``LowRankProjection``."""

    def layer(hidden_states: Tensor, parameters: Mapping[str, Tensor], **config: Any) -> Tensor:  # noqa: ANN401 - the constructor's
        return _call(LowRankProjection, parameters, (hidden_states,), backend=backend, **config)

    return layer


def flash_sdpa(*, backend: str | None) -> Layer:
    """Returns ``(query_states, key_states, value_states, attention_mask, parameters, ...)`` of ``FlashSdpa``."""

    def layer(
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
    ) -> Tensor:
        states = (query_states, key_states, value_states, attention_mask, is_causal, scale)
        return _call(FlashSdpa, parameters, states, backend=backend, num_sinks=num_sinks, window_size=window_size)

    return layer


def grouped_query_attention(*, backend: str | None) -> Layer:
    """Returns ``(hidden_states, attention_mask, position_embeddings, parameters, ...)`` of that module."""
    return _attention_layer(GroupedQueryAttention, backend)


def multi_head_latent_attention(*, backend: str | None) -> Layer:
    """Returns ``(hidden_states, attention_mask, position_embeddings, parameters, ...)`` of that module."""
    return _attention_layer(MultiHeadLatentAttention, backend)


def gated_delta_net(*, backend: str | None) -> Layer:
    """Returns ``(hidden_states, attention_mask, parameters, ...)`` of ``GatedDeltaNet``; the gate is a mapping."""
    adapter: TypeAdapter[AnyDecayGateParameters] = TypeAdapter(AnyDecayGateParameters)

    def layer(
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        parameters: Mapping[str, Tensor],
        *,
        decay_gate: Mapping[str, Any],
        **config: Any,  # noqa: ANN401 - the constructor's
    ) -> Tensor:
        gate = adapter.validate_python(dict(decay_gate))
        inputs = (hidden_states, attention_mask)
        return _call(GatedDeltaNet, parameters, inputs, backend=backend, decay_gate=gate, **config)

    return layer


def _attention_layer(module: Callable[..., nn.Module], backend: str | None) -> Layer:
    def layer(
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        position_embeddings: tuple[Tensor, Tensor],
        parameters: Mapping[str, Tensor],
        **config: Any,  # noqa: ANN401 - the constructor's
    ) -> Tensor:
        inputs = (hidden_states, attention_mask, position_embeddings)
        return _call(module, parameters, inputs, backend=backend, **config)

    return layer


def _call(
    module: Callable[..., nn.Module],
    parameters: Mapping[str, Tensor],
    inputs: tuple[Any, ...],
    **config: Any,  # noqa: ANN401 - the constructor's
) -> Tensor:
    """Returns the module's result on the given parameters; further parameters are ignored."""
    with torch.device("meta"):
        layer = module(**config)
    expected = {name: tuple(parameter.shape) for name, parameter in layer.named_parameters()}
    check_parameters(parameters, expected)
    out: Tensor = functional_call(layer, {name: parameters[name] for name in expected}, inputs, strict=True)
    return out
