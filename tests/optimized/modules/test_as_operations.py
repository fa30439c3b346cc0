"""The modules as functions of tensors and named parameters, and what kernels say of such a call before it is made."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from optimized.modules import as_operations, support
from tests.optimized.modules.layers import EXAMPLES, LAYERS, randomized
from tests.optimized.refusals import assert_refused

WIDE = "head width: got 258, expected at most 256"


def _call(name: str, changes: dict[str, Any] | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns positional and keyword arguments of a layer's function, float32, for its example."""
    layer = LAYERS[name]
    config = {**layer.config, **(changes or {})}
    parameters = dict(randomized(layer.module(**config)).named_parameters())
    inputs = list(EXAMPLES[name].of(torch.float32))
    if name == "flash_sdpa":
        *inputs, is_causal, scale = inputs
        config |= {"is_causal": is_causal, "scale": scale}
    if name == "gated_delta_net":
        config["decay_gate"] = config["decay_gate"].model_dump()
    return (*inputs, parameters), config


def _function(name: str, backend: str = "torch") -> Callable[..., Tensor]:
    function: Callable[..., Tensor] = getattr(as_operations, name)(backend=backend)
    return function


@pytest.mark.parametrize("name", LAYERS)
def test_a_function_gives_what_the_module_gives(name: str) -> None:
    arguments, config = _call(name)
    module = randomized(LAYERS[name].module(**LAYERS[name].config, backend="torch"))
    assert torch.equal(_function(name)(*arguments, **config), module(*EXAMPLES[name].of(torch.float32)))


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_reach_every_parameter_that_is_given(name: str) -> None:
    arguments, config = _call(name)
    parameters: dict[str, Tensor] = arguments[-1]
    out = _function(name)(*arguments, **config)
    gradients = torch.autograd.grad(out.square().sum(), list(parameters.values()))
    assert [key for key, gradient in zip(parameters, gradients, strict=True) if not gradient.any()] == []


@pytest.mark.parametrize("name", LAYERS)
def test_a_missing_parameter_is_refused(name: str) -> None:
    (*inputs, parameters), config = _call(name)
    missing = next(iter(LAYERS[name].module(**LAYERS[name].config).state_dict()))
    others = {key: parameter for key, parameter in parameters.items() if key != missing}
    sentence = f"parameters: got {', '.join(others) or 'none'}, expected {missing} among them"
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        _function(name)(*inputs, others, **config)


@pytest.mark.parametrize("name", ["flash_sdpa", "grouped_query_attention", "multi_head_latent_attention"])
def test_flash4_asks_for_a_gpu(name: str) -> None:
    (*inputs, parameters), config = _call(name)
    narrow = [x.bfloat16() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs]
    sentence = "device: got cpu, expected cuda: FlashAttention 4 runs on GPUs only"
    assert getattr(support, f"flash4_{name}")(*narrow, parameters, **config) == sentence


@pytest.mark.parametrize("name", LAYERS)
def test_triton_computes_the_examples(name: str) -> None:
    arguments, config = _call(name)
    assert getattr(support, f"triton_{name}")(*arguments, **config) is None


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("grouped_query_attention", {"head_dim": 258}),
        ("multi_head_latent_attention", {"qk_nope_head_dim": 254}),
        ("multi_head_latent_attention", {"v_head_dim": 258}),
    ],
)
def test_triton_declines_wide_heads_of_a_layer(name: str, changes: dict[str, Any]) -> None:
    arguments, config = _call(name, changes)
    assert_refused(_function(name, "triton"), getattr(support, f"triton_{name}"), *arguments, sentence=WIDE, **config)


def test_triton_declines_wide_heads_of_the_attention_layer() -> None:
    states, options = torch.zeros(1, 2, 1, 258), {"is_causal": True, "scale": 1.0}
    assert_refused(
        _function("flash_sdpa", "triton"),
        support.triton_flash_sdpa,
        states, states, states, None, {},
        sentence=WIDE, **options,
    )  # fmt: skip


def test_triton_declines_wide_heads_of_the_delta_rule() -> None:
    arguments, config = _call("gated_delta_net", {"head_v_dim": 258})
    sentence = str(support.triton_gated_delta_net(*arguments, **config))
    assert sentence.startswith("value: got V = 258, expected at most ")
    assert_refused(
        _function("gated_delta_net", "triton"), support.triton_gated_delta_net, *arguments, sentence=sentence, **config
    )


def test_triton_declines_many_taps_of_the_convolution() -> None:
    arguments, config = _call("gated_delta_net", {"conv_size": 9})
    function, sentence = _function("gated_delta_net", "triton"), "weight: got 9 taps, expected 1 to 8"
    assert_refused(function, support.triton_gated_delta_net, *arguments, sentence=sentence, **config)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("low_rank_projection", {"bottleneck": 32769}),
        ("multi_head_latent_attention", {"kv_lora_rank": 32769}),
        ("multi_head_latent_attention", {"q_lora_rank": 32769}),
    ],
)
def test_triton_declines_wide_norms_of_a_layer(name: str, changes: dict[str, Any]) -> None:
    arguments, config = _call(name, changes)
    function, supports = _function(name, "triton"), getattr(support, f"triton_{name}")
    assert_refused(function, supports, *arguments, sentence="x: got 32769 channels, expected 1 to 32768", **config)
