"""The layers against the references, which share no code with them: same inputs, float64, results and gradients."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import reference
from optimized.eager.flash_sdpa import flash_sdpa
from optimized.eager.gated_delta_net import gated_delta_net
from optimized.eager.grouped_query_attention import grouped_query_attention
from optimized.eager.low_rank_projection import low_rank_projection
from optimized.eager.multi_head_latent_attention import multi_head_latent_attention
from tests.reference import draws
from tests.reference.agree import assert_agree, assert_refused, gradients
from tests.reference.draws import normal, parameters_of, tables

MASK = torch.tensor([[True, True, False, True], [False, True, True, True]])
ROUNDINGS = 200
"""Roundings on the longest path through a layer of this size: about ten sums of up to 16 terms, and what is between."""

Layer = Callable[..., Tensor]


def sensitivity(function: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """Returns how much a relative change of the inputs changes each result and gradient at most, per unit of change.

    Measured with random changes of 2^-26, half of float64's digits, where rounding and curvature are both negligible.
    """
    step = 2.0**-26
    largest = torch.zeros(len(inputs) + 1, dtype=torch.float64)
    plain = _all_of(function, inputs)
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        moved = [
            (x.detach() * (1 + step * (2 * torch.rand(x.shape, generator=generator, dtype=x.dtype) - 1)))
            .requires_grad_()
            for x in inputs
        ]  # fmt: skip
        changes = [(a - b).abs().max() / step for a, b in zip(_all_of(function, moved), plain, strict=True)]
        largest = torch.maximum(largest, torch.stack(changes))
    return largest + torch.stack([part.abs().max() for part in plain])


def _all_of(function: Layer, inputs: Sequence[Tensor]) -> list[Tensor]:
    out = function(*inputs)
    return [out.detach(), *gradients([out], list(inputs))]


def assert_same_layer(ours: Layer, theirs: Layer, inputs: Sequence[Tensor]) -> None:
    """Asserts that both give the same result and gradients, within the roundings of a path times the sensitivity."""
    conditions = sensitivity(theirs, inputs)
    for actual, expected, condition in zip(_all_of(ours, inputs), _all_of(theirs, inputs), conditions, strict=True):
        assert_agree(actual, expected, operations=ROUNDINGS, condition=float(condition))


def flat(layer: Layer, shapes: draws.Shapes, *positional: object, **config: Any) -> tuple[Layer, list[Tensor]]:
    """Returns the layer as a function of hidden states and parameters one by one, and the drawn parameters."""
    parameters = parameters_of(shapes, seed=20)

    def function(hidden_states: Tensor, *values: Tensor) -> Tensor:
        return layer(hidden_states, *positional, dict(zip(parameters, values, strict=True)), **config)

    return function, list(parameters.values())


def test_low_rank_projection() -> None:
    ours, parameters = flat(low_rank_projection, draws.low_rank_shapes(), **draws.LOW_RANK)
    theirs, _ = flat(reference.low_rank_projection, draws.low_rank_shapes(), **draws.LOW_RANK)
    assert_same_layer(ours, theirs, [normal(2, 3, 5, seed=0), *parameters])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rope_dim": None, "rope_style": "interleaved", "is_causal": False},
        {"qk_norm_eps": None, "enable_output_gate": False, "num_key_value_heads": 1},
        {"qk_norm_zero_centered": True, "num_key_value_heads": 4},
    ],
)
@pytest.mark.parametrize("mask", [None, MASK])
def test_grouped_query_attention(changes: dict[str, Any], mask: Tensor | None) -> None:
    config = {**draws.GROUPED, **changes}
    rotated = config["rope_dim"] or config["head_dim"]
    positional = (mask, tables(2, 4, rotated, style=config["rope_style"], seed=5))
    ours, parameters = flat(grouped_query_attention, draws.grouped_shapes(config), *positional, **config)
    theirs, _ = flat(reference.grouped_query_attention, draws.grouped_shapes(config), *positional, **config)
    assert_same_layer(ours, theirs, [normal(2, 4, 5, seed=0), *parameters])


@pytest.mark.parametrize("changes", [{}, {"q_lora_rank": None, "is_causal": False, "rope_style": "half"}])
@pytest.mark.parametrize("mask", [None, MASK])
def test_multi_head_latent_attention(changes: dict[str, Any], mask: Tensor | None) -> None:
    config = {**draws.LATENT, **changes}
    positional = (mask, tables(2, 4, config["qk_rope_head_dim"], style=config["rope_style"], seed=5))
    ours, parameters = flat(multi_head_latent_attention, draws.latent_shapes(config), *positional, **config)
    theirs, _ = flat(reference.multi_head_latent_attention, draws.latent_shapes(config), *positional, **config)
    assert_same_layer(ours, theirs, [normal(2, 4, 5, seed=0), *parameters])


@pytest.mark.parametrize("changes", [{}, {"decay_gate": {"type": "logsigmoid", "normalizer": 16.0}}])
@pytest.mark.parametrize("mask", [None, MASK])
def test_gated_delta_net(changes: dict[str, Any], mask: Tensor | None) -> None:
    config = {**draws.DELTA_NET, **changes}
    ours, parameters = flat(gated_delta_net, draws.delta_net_shapes(config), mask, **config)
    theirs, _ = flat(reference.gated_delta_net, draws.delta_net_shapes(config), mask, **config)
    assert_same_layer(ours, theirs, [normal(2, 4, 5, seed=0), *parameters])


@pytest.mark.parametrize("window", [None, 0, 2])
@pytest.mark.parametrize("mask", [None, MASK])
def test_flash_sdpa(window: int | None, mask: Tensor | None) -> None:
    def layer(function: Layer) -> Layer:
        return lambda q, k, v, sinks: function(
            q, k, v, mask, {"sinks": sinks}, is_causal=True, scale=0.3, num_sinks=4, window_size=window
        )

    inputs = [normal(2, 4, 4, 3, seed=0), normal(2, 4, 2, 3, seed=1), normal(2, 4, 2, 5, seed=2), normal(4, seed=3)]
    assert_same_layer(layer(flash_sdpa), layer(reference.flash_sdpa), inputs)


X = torch.zeros(2, 4, 4, 8)
HIDDEN = torch.zeros(2, 4, 6)


def _flash(**options: Any) -> Tensor:
    return flash_sdpa(X, X, X, None, {}, **{"is_causal": True, "scale": 1.0, **options})


def _delta_net(**changes: Any) -> Tensor:
    config = {**draws.DELTA_NET, **changes}
    return gated_delta_net(torch.zeros(2, 4, 5), None, parameters_of(draws.delta_net_shapes(config), seed=0), **config)


REFUSALS: dict[str, tuple[Callable[[], object], type[Exception], tuple[str, ...]]] = {
    "negative window": (lambda: _flash(window_size=-1), ValueError, ("window_size", "-1", "not negative")),
    "window without causality": (
        lambda: _flash(window_size=1, is_causal=False), ValueError, ("window_size", "is_causal=False"),
    ),
    "number of sinks": (lambda: _flash(num_sinks=3), ValueError, ("num_sinks", "3", "4")),
    "additive mask": (
        lambda: flash_sdpa(X, X, X, torch.zeros(2, 4), {}, is_causal=True, scale=1.0),
        TypeError, ("attention_mask", "torch.float32", "boolean"),
    ),
    "hidden size": (
        lambda: low_rank_projection(HIDDEN, {}, **draws.LOW_RANK), ValueError, ("hidden_states", "(2, 4, 6)", "5"),
    ),
    "missing parameter": (
        lambda: low_rank_projection(X[0, ..., :5], {}, **draws.LOW_RANK),
        ValueError, ("parameters", "none", "down_proj.weight"),
    ),
    "value heads": (lambda: _delta_net(num_value_heads=3), ValueError, ("num_value_heads", "3", "multiple of 2")),
    "gate": (lambda: _delta_net(decay_gate={"type": "none"}), ValueError, ("decay_gate", "'none'", "'mamba'")),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_bad_input_is_refused_with_a_sentence(case: str) -> None:
    call, error, parts = REFUSALS[case]
    assert_refused(call, error, *parts)
