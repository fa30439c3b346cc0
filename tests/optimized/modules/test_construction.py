"""What constructors make and refuse, and what a state dict and ``reset_parameters`` hold."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from optimized.modules import (
    CausalShortDepthwiseConv1d,
    FlashSdpa,
    LogSigmoidDecayGate,
    MambaDecayGate,
    RMSNorm,
    RotaryEmbeddingApplicator,
    RotaryEmbeddingProvider,
)
from tests.optimized.modules.layers import EXAMPLES, LAYERS, drawn, randomized

PARTS: dict[str, Callable[..., Any]] = {
    "rms_norm": lambda **options: RMSNorm(4, **options),
    "zero_centered_rms_norm": lambda **options: RMSNorm(4, 1e-5, True, **options),  # noqa: FBT003 - the signature of d9d
    "short_conv": lambda **options: CausalShortDepthwiseConv1d(4, 3, **options),
    "mamba_gate": lambda **options: MambaDecayGate(4, 2, **options),
    "log_sigmoid_gate": lambda **options: LogSigmoidDecayGate(4, 2, **options),
    "applicator": lambda **options: RotaryEmbeddingApplicator("half", **options),
    **{name: lambda name=name, **options: LAYERS[name].module(**LAYERS[name].config, **options) for name in LAYERS},
}
"""Every module that has a backend."""


@pytest.mark.parametrize("name", LAYERS)
@given(data=st.data())
def test_a_state_dict_has_exactly_the_parameters_of_the_definition(name: str, data: st.DataObject) -> None:
    config, _ = data.draw(drawn(name))
    with torch.device("meta"):
        state = LAYERS[name].module(**config).state_dict()
    assert {key: tuple(tensor.shape) for key, tensor in state.items()} == LAYERS[name].shapes(config)


@pytest.mark.parametrize("name", LAYERS)
def test_a_state_dict_carries_a_layer_over(name: str) -> None:
    layer, inputs = LAYERS[name], EXAMPLES[name].inputs
    first, second = (layer.module(**layer.config).double() for _ in range(2))
    second.load_state_dict(randomized(first).state_dict(), strict=True)
    assert torch.equal(first(*inputs), second(*inputs))


@pytest.mark.parametrize("name", PARTS)
def test_resetting_reaches_every_parameter(name: str) -> None:
    module = PARTS[name]()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(torch.nan)
    module.reset_parameters()
    assert [key for key, parameter in module.named_parameters() if not parameter.isfinite().all()] == []


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_made_on_the_meta_device_is_whole_after_a_reset(name: str) -> None:
    layer = LAYERS[name]
    with torch.device("meta"):
        module = layer.module(**layer.config)
    module.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(torch.nan)
    module.reset_parameters()
    assert module.double()(*EXAMPLES[name].inputs).isfinite().all()


@pytest.mark.parametrize(("name", "weight"), [("rms_norm", 1.0), ("zero_centered_rms_norm", 0.0)])
def test_a_new_norm_has_the_factor_one(name: str, weight: float) -> None:
    assert PARTS[name]().weight.tolist() == [weight] * 4


def test_new_sinks_are_zero() -> None:
    assert {name: sinks.tolist() for name, sinks in FlashSdpa(3).named_parameters()} == {"sinks": [0.0] * 3}


def test_a_new_convolution_is_drawn_as_torch_draws_one() -> None:
    module = CausalShortDepthwiseConv1d(64, 4)
    assert 0.25 < module.weight.abs().max().item() <= 0.5


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (lambda: RMSNorm(4, 1e-5, True), "RMSNorm(4, eps=1e-05, zero_centered=True)"),  # noqa: FBT003 - d9d's
        (lambda: FlashSdpa(3, 2, backend="eager"), "FlashSdpa(num_sinks=3, window_size=2, backend=eager)"),
        (FlashSdpa, "FlashSdpa(num_sinks=None, window_size=None, backend=None)"),
        (
            lambda: RotaryEmbeddingProvider(1e4, 4, 8, "half"),
            "RotaryEmbeddingProvider(10000.0, 4, 8, 'half', NoRopeScaling())",
        ),
    ],
)
def test_a_module_shows_its_arguments(make: Callable[[], nn.Module], shown: str) -> None:
    assert repr(make()) == shown


@pytest.mark.parametrize("name", PARTS)
def test_an_unknown_backend_is_refused(name: str) -> None:
    sentence = "backend: got 'fla', expected None or one of flash4, triton, torch, eager"
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        PARTS[name](backend="fla")


REFUSED: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("low_rank_projection", {"in_features": 0}, ValueError, "in_features: got 0, expected a positive integer"),
    ("low_rank_projection", {"bottleneck": -1}, ValueError, "bottleneck: got -1, expected a positive integer"),
    ("low_rank_projection", {"out_features": 2.0}, TypeError, "out_features: got 2.0, expected a positive integer"),
    ("low_rank_projection", {"norm_eps": 0.0}, ValueError, "norm_eps: got 0.0, expected a positive number"),
    ("low_rank_projection", {"norm_eps": None}, TypeError, "norm_eps: got None, expected a positive number"),
    ("flash_sdpa", {"num_sinks": 0}, ValueError, "num_sinks: got 0, expected a positive integer"),
    (
        "flash_sdpa", {"window_size": -1}, ValueError,
        "window_size: got -1, expected None or a number that is not negative",
    ),
    ("flash_sdpa", {"window_size": (2, 0)}, TypeError, "window_size: got (2, 0), expected None or an integer"),
    ("grouped_query_attention", {"hidden_size": 0}, ValueError, "hidden_size: got 0, expected a positive integer"),
    (
        "grouped_query_attention", {"num_key_value_heads": 3}, ValueError,
        "num_attention_heads: got 4, expected a multiple of 3",
    ),
    ("grouped_query_attention", {"qk_norm_eps": -1.0}, ValueError, "qk_norm_eps: got -1.0, expected a positive number"),
    ("grouped_query_attention", {"rope_dim": 3}, ValueError, "rope_dim: got 3, expected a positive even number"),
    ("grouped_query_attention", {"rope_dim": 8}, ValueError, "rope_dim: got 8, expected at most head_dim=6"),
    (
        "grouped_query_attention", {"rope_dim": None, "head_dim": 5}, ValueError,
        "head_dim: got 5, expected a positive even number",
    ),
    (
        "grouped_query_attention", {"rope_style": "neox"}, ValueError,
        "rope_style: got 'neox', expected one of half, interleaved",
    ),
    ("multi_head_latent_attention", {"v_head_dim": 0}, ValueError, "v_head_dim: got 0, expected a positive integer"),
    ("multi_head_latent_attention", {"q_lora_rank": 0}, ValueError, "q_lora_rank: got 0, expected a positive integer"),
    (
        "multi_head_latent_attention", {"qk_rope_head_dim": 5}, ValueError,
        "qk_rope_head_dim: got 5, expected a positive even number",
    ),
    (
        "multi_head_latent_attention", {"qk_down_norm_eps": float("nan")}, ValueError,
        "qk_down_norm_eps: got nan, expected a positive number",
    ),
    (
        "multi_head_latent_attention", {"rope_style": 1}, ValueError,
        "rope_style: got 1, expected one of half, interleaved",
    ),
    ("gated_delta_net", {"num_value_heads": 3}, ValueError, "num_value_heads: got 3, expected a multiple of 2"),
    ("gated_delta_net", {"conv_size": 0}, ValueError, "conv_size: got 0, expected a positive integer"),
    ("gated_delta_net", {"norm_eps": 0.0}, ValueError, "norm_eps: got 0.0, expected a positive number"),
    (
        "gated_delta_net", {"decay_gate": {"type": "mamba"}}, TypeError,
        "decay_gate: got dict, expected MambaDecayGateParameters or LogSigmoidDecayGateParameters",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "error", "sentence"), REFUSED)
def test_a_constructor_refuses_in_one_sentence(
    name: str, changes: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=f"^{re.escape(sentence)}$"):
        LAYERS[name].module(**{**LAYERS[name].config, **changes})


PART_REFUSED: list[tuple[Callable[[], nn.Module], str]] = [
    (lambda: RMSNorm(0), "hidden_size: got 0, expected a positive integer"),
    (lambda: RMSNorm(4, 0.0), "eps: got 0.0, expected a positive number"),
    (lambda: CausalShortDepthwiseConv1d(4, 0), "kernel_size: got 0, expected a positive integer"),
    (lambda: MambaDecayGate(4, 0), "num_heads: got 0, expected a positive integer"),
    (lambda: MambaDecayGate(4, 2, normalizer=0.0), "normalizer: got 0.0, expected a positive number"),
    (lambda: MambaDecayGate(4, 2, dt_min=0.2), "dt_min: got 0.2, expected at most dt_max=0.1"),
    (lambda: MambaDecayGate(4, 2, dt_init_floor=-1.0), "dt_init_floor: got -1.0, expected a positive number"),
    (lambda: LogSigmoidDecayGate(4, 2, -16.0), "normalizer: got -16.0, expected a positive number"),
    (lambda: RotaryEmbeddingApplicator("neox"), "style: got 'neox', expected one of half, interleaved"),
    (lambda: RotaryEmbeddingProvider(0.0, 4, 8, "half"), "rope_base: got 0.0, expected a positive number"),
    (lambda: RotaryEmbeddingProvider(1e4, 5, 8, "half"), "head_dim: got 5, expected a positive even number"),
    (lambda: RotaryEmbeddingProvider(1e4, 4, 0, "half"), "max_position_ids: got 0, expected a positive integer"),
]


@pytest.mark.parametrize(("make", "sentence"), PART_REFUSED)
def test_the_constructor_of_a_part_refuses_in_one_sentence(make: Callable[[], nn.Module], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        make()
