"""One small module of every layer, with inputs, and drawn configurations of each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from optimized.modules import (
    AnyDecayGateParameters,
    FlashSdpa,
    GatedDeltaNet,
    GroupedQueryAttention,
    LogSigmoidDecayGateParameters,
    LowRankProjection,
    MambaDecayGateParameters,
    MultiHeadLatentAttention,
)
from tests.reference.draws import (
    DELTA_NET,
    GROUPED,
    LATENT,
    LOW_RANK,
    delta_net_shapes,
    grouped_shapes,
    latent_shapes,
    low_rank_shapes,
    normal,
    tables,
)

__all__ = ["EXAMPLES", "LAYERS", "Example", "Layer", "drawn", "example", "randomized"]

Config = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer's module, a small configuration, the shapes of its parameters and the configurations that are drawn."""

    module: Callable[..., Any]
    config: Config
    shapes: Callable[[Mapping[str, Any]], dict[str, tuple[int, ...]]]
    draws: Mapping[str, st.SearchStrategy[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """Arguments of a layer's forward."""

    inputs: tuple[Any, ...]

    @property
    def differentiable(self) -> list[Tensor]:
        """The floating-point tensors that gradients are taken of."""
        return [x for x in self.inputs if isinstance(x, Tensor) and x.requires_grad]

    def of(self, dtype: torch.dtype) -> tuple[Any, ...]:
        """Returns the arguments with floating-point tensors in another dtype."""
        return tuple(_converted(x, dtype) for x in self.inputs)


GATES: tuple[AnyDecayGateParameters, ...] = (
    MambaDecayGateParameters(normalizer=16.0, dt_min=1e-3, dt_max=0.1, dt_init_floor=1e-4),
    LogSigmoidDecayGateParameters(normalizer=4.0),
)


def _flash_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {} if config["num_sinks"] is None else {"sinks": (config["num_sinks"],)}


def _delta_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return delta_net_shapes({**config, "decay_gate": config["decay_gate"].model_dump()})


_EPS = st.sampled_from([1e-6, 1e-3])
_STYLE = st.sampled_from(["half", "interleaved"])
_FEW = st.integers(1, 3)

LAYERS: dict[str, Layer] = {
    "low_rank_projection": Layer(
        module=LowRankProjection,
        config=LOW_RANK,
        shapes=low_rank_shapes,
        draws={
            "in_features": st.integers(1, 6),
            "bottleneck": st.integers(1, 4),
            "out_features": st.integers(1, 5),
            "norm_eps": _EPS,
        },
    ),
    "flash_sdpa": Layer(
        module=FlashSdpa,
        config={"num_sinks": 4, "window_size": 2},
        shapes=_flash_shapes,
        draws={"num_sinks": st.sampled_from([None, 4]), "window_size": st.sampled_from([None, 0, 1, 3])},
    ),
    "grouped_query_attention": Layer(
        module=GroupedQueryAttention,
        config=GROUPED,
        shapes=grouped_shapes,
        draws={
            "num_key_value_heads": st.sampled_from([1, 2, 4]),
            "qk_norm_eps": st.one_of(st.none(), _EPS),
            "is_causal": st.booleans(),
            "rope_style": _STYLE,
            "rope_dim": st.sampled_from([None, 2, 4, 6]),
            "enable_output_gate": st.booleans(),
            "qk_norm_zero_centered": st.booleans(),
        },
    ),
    "multi_head_latent_attention": Layer(
        module=MultiHeadLatentAttention,
        config=LATENT,
        shapes=latent_shapes,
        draws={
            "num_attention_heads": _FEW,
            "qk_nope_head_dim": _FEW,
            "qk_rope_head_dim": st.sampled_from([2, 4]),
            "v_head_dim": st.sampled_from([1, 3, 9]),
            "kv_lora_rank": st.integers(1, 5),
            "q_lora_rank": st.sampled_from([None, 1, 3]),
            "qk_down_norm_eps": _EPS,
            "is_causal": st.booleans(),
            "rope_style": _STYLE,
        },
    ),
    "gated_delta_net": Layer(
        module=GatedDeltaNet,
        config={**DELTA_NET, "decay_gate": GATES[0]},
        shapes=_delta_shapes,
        draws={
            "num_query_key_heads": st.sampled_from([1, 2]),
            "num_value_heads": st.sampled_from([2, 4]),
            "head_qk_dim": _FEW,
            "head_v_dim": _FEW,
            "norm_eps": _EPS,
            "conv_size": st.integers(1, 5),
            "decay_gate": st.sampled_from(GATES),
            "use_qk_l2norm": st.booleans(),
        },
    ),
}
"""Layers by the names that their references have."""


def example(name: str, config: Mapping[str, Any], *, tokens: int = 4, mask: Tensor | None = None) -> Example:
    """Returns float64 arguments of a layer's forward, for a batch of 2; ``mask`` is (2, tokens)."""
    if name == "flash_sdpa":
        query, key, value = (normal(2, tokens, heads, 3, seed=heads) for heads in (4, 2, 1))
        value = normal(2, tokens, 2, 5, seed=3)
        is_causal = config["window_size"] is not None or tokens % 2 == 0
        return Example(inputs=(query, key, value, mask, is_causal, 0.3))
    width = config["in_features" if name == "low_rank_projection" else "hidden_size"]
    hidden = normal(2, tokens, width, seed=0)
    if name == "low_rank_projection":
        return Example(inputs=(hidden,))
    if name == "gated_delta_net":
        return Example(inputs=(hidden, mask))
    rotated = config["qk_rope_head_dim"] if "qk_rope_head_dim" in config else config["rope_dim"] or config["head_dim"]
    return Example(inputs=(hidden, mask, tables(2, tokens, rotated, style=config["rope_style"], seed=5)))


EXAMPLES = {
    name: example(name, layer.config, mask=torch.tensor([[True] * 4, [False, True, True, True]]))
    for name, layer in LAYERS.items()
}
"""Arguments for the small configuration of each layer; the second sequence is padded on the left."""


@st.composite
def drawn(draw: st.DrawFn, name: str) -> tuple[Config, Example]:
    """Draws a configuration of a layer, and arguments with 1 to 5 tokens and any key mask."""
    layer = LAYERS[name]
    config = {**layer.config, **{option: draw(strategy, label=option) for option, strategy in layer.draws.items()}}
    tokens = draw(st.integers(1, 5), label="tokens")
    rows = st.lists(st.booleans(), min_size=tokens, max_size=tokens)
    mask = draw(st.one_of(st.none(), st.tuples(rows, rows)), label="mask")
    return config, example(name, config, tokens=tokens, mask=None if mask is None else torch.tensor(mask))


def randomized(module: nn.Module) -> nn.Module:
    """Returns the module with all parameters drawn, so that a norm's weight of 1 or a sink of 0 hides nothing."""
    with torch.no_grad():
        for index, parameter in enumerate(module.parameters()):
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 1.0
            parameter.copy_(normal(*parameter.shape, seed=20 + index) * scale)
    return module


def _converted(x: Any, dtype: torch.dtype) -> Any:
    if isinstance(x, Tensor) and x.is_floating_point():
        return x.detach().to(dtype).requires_grad_(x.requires_grad)
    return tuple(_converted(part, dtype) for part in x) if isinstance(x, Sequence) else x
