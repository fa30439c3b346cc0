"""The modules against the reference layers, which share no code with them: all options, results and gradients."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import reference
from tests.optimized.modules.layers import EXAMPLES, LAYERS, Example, drawn, randomized

DEMANDED = 1e-12
"""Largest distance of a float64 module from its reference, of the largest result or gradient: what modules promise."""


def _reference(name: str, config: dict[str, Any], example: Example, parameters: dict[str, nn.Parameter]) -> Tensor:
    function = getattr(reference, name)
    inputs = list(example.inputs)
    if name == "flash_sdpa":
        *inputs, is_causal, scale = inputs
        config = {**config, "is_causal": is_causal, "scale": scale}
    if name == "gated_delta_net":
        config = {**config, "decay_gate": config["decay_gate"].model_dump()}
    out: Tensor = function(*inputs, parameters, **config)
    return out


def _distance(actual: list[Tensor], expected: list[Tensor]) -> float:
    """Returns the largest distance, of the largest expected magnitude; 0 in place of nothing but zeros."""
    largest = max(float(part.abs().max()) for part in expected)
    furthest = max(float((a - b).abs().max()) for a, b in zip(actual, expected, strict=True))
    return furthest / largest if largest else furthest


def _assert_same(name: str, backend: str, config: dict[str, Any], example: Example) -> None:
    module = randomized(LAYERS[name].module(**config, backend=backend).double())
    parameters = dict(module.named_parameters())
    differentiable = [*example.differentiable, *parameters.values()]
    actual, expected = module(*example.inputs), _reference(name, config, example, parameters)
    cotangent = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert _distance([actual.detach()], [expected.detach()]) <= DEMANDED
    assert (
        _distance(
            list(torch.autograd.grad(actual, differentiable, cotangent)),
            list(torch.autograd.grad(expected, differentiable, cotangent)),
        )
        <= DEMANDED
    )


@pytest.mark.parametrize("backend", ["eager", "torch"])
@pytest.mark.parametrize("name", LAYERS)
@given(data=st.data())
def test_every_option_agrees_with_the_reference(name: str, backend: str, data: st.DataObject) -> None:
    config, example = data.draw(drawn(name))
    _assert_same(name, backend, config, example)


@pytest.mark.parametrize("name", LAYERS)
def test_a_float64_module_chooses_the_eager_backend(name: str) -> None:
    chosen, eager = (
        randomized(LAYERS[name].module(**LAYERS[name].config, backend=backend).double()) for backend in (None, "eager")
    )
    assert torch.equal(chosen(*EXAMPLES[name].inputs), eager(*EXAMPLES[name].inputs))
