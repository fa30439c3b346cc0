from typing import Any

import pytest
import torch
from torch import Tensor

from reference import grouped_query_attention
from tests.reference.agree import assert_agree, assert_refused, gradients
from tests.reference.draws import GROUPED, grouped_shapes, normal, parameters_of, tables
from tests.reference.second.plain_layers import plain_grouped_query_attention

CONFIGS: dict[str, dict[str, Any]] = {
    "grouped": GROUPED,
    "all channels rotated": GROUPED | {"rope_dim": None},
    "interleaved": GROUPED | {"rope_style": "interleaved"},
    "no norm": GROUPED | {"qk_norm_eps": None},
    "zero-centred norm": GROUPED | {"qk_norm_zero_centered": True},
    "no gate": GROUPED | {"enable_output_gate": False},
    "not causal": GROUPED | {"is_causal": False},
    "one key/value head": GROUPED | {"num_key_value_heads": 1},
    "as many key/value heads": GROUPED | {"num_key_value_heads": 4},
}


def _angles(config: dict[str, Any], B: int, T: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Angles, one per pair, and the tables that the layer takes."""
    R = config["rope_dim"] or config["head_dim"]
    angles = normal(B, T, R // 2, seed=7, requires_grad=False)
    return angles, tables(B, T, R, style=config["rope_style"], seed=7)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("has_mask", [True, False])
def test_a_layer_of_torch_functions_agrees_with_its_gradients(name: str, *, has_mask: bool) -> None:
    config = CONFIGS[name]
    x, parameters = normal(2, 5, 5, seed=0), parameters_of(grouped_shapes(config), seed=1)
    angles, embeddings = _angles(config, 2, 5)
    mask = torch.tensor([[True, True, False, True, False], [True] * 5]) if has_mask else None
    ours = grouped_query_attention(x, mask, embeddings, parameters, **config)
    theirs = plain_grouped_query_attention(x, mask, parameters, angles, config)
    inputs = [x, *parameters.values()]
    length = 5 + 6 + 6 + 2 * 5 + 24 + 20
    assert_agree(ours, theirs, operations=length, condition=10 + float(theirs.detach().abs().max()))
    for a, b in zip(gradients([ours], inputs), gradients([theirs], inputs), strict=True):
        assert_agree(a, b, operations=4 * length, condition=10 + float(b.abs().max()))


def test_future_tokens_do_not_change_the_past() -> None:
    x, parameters = normal(1, 5, 5, seed=0), parameters_of(grouped_shapes(), seed=1)
    _, embeddings = _angles(GROUPED, 1, 5)
    other = torch.cat((x[:, :3], 7 * x[:, 3:]), 1)
    one = grouped_query_attention(x, None, embeddings, parameters, **GROUPED)
    two = grouped_query_attention(other, None, embeddings, parameters, **GROUPED)
    assert_agree(one[:, :3], two[:, :3], operations=64, condition=1 + float(one.detach().abs().max()))
    assert not torch.equal(one[:, 3:], two[:, 3:])


def test_positions_matter_only_by_their_differences() -> None:
    config = GROUPED | {"rope_dim": None}
    x, parameters = normal(1, 4, 5, seed=0), parameters_of(grouped_shapes(config), seed=1)
    angles = torch.arange(4, dtype=torch.float64)[None, :, None] * torch.tensor([1.0, 0.3, 0.1], dtype=torch.float64)
    outs = []
    for shift in (0.0, 2.0):
        pairs = torch.cat((angles + shift, angles + shift), -1)
        outs.append(grouped_query_attention(x, None, (pairs.cos(), pairs.sin()), parameters, **config))
    assert_agree(outs[0], outs[1], operations=128, condition=10.0)


def test_an_open_gate_is_half_without_its_weight() -> None:
    x, parameters = normal(1, 4, 5, seed=0), parameters_of(grouped_shapes(), seed=1)
    _, embeddings = _angles(GROUPED, 1, 4)
    gated = grouped_query_attention(
        x, None, embeddings, parameters | {"gate_proj.weight": 0 * parameters["gate_proj.weight"]}, **GROUPED
    )
    del parameters["gate_proj.weight"]
    plain = grouped_query_attention(x, None, embeddings, parameters, **GROUPED | {"enable_output_gate": False})
    assert torch.equal(gated, plain / 2)


REFUSALS: list[tuple[dict[str, Any], type[Exception], tuple[str, ...]]] = [
    ({"hidden_states": normal(2, 3, 4, seed=0)}, ValueError, ("hidden_states", "(2, 3, 4)", "hidden_size=5")),
    ({"num_key_value_heads": 3}, ValueError, ("num_attention_heads", "4", "3 of num_key_value_heads")),
    ({"rope_dim": 8}, ValueError, ("rope_dim", "8", "head_dim=6")),
    ({"rope_dim": 3}, ValueError, ("rope_dim", "3", "even")),
    ({"qk_norm_eps": 0.0}, ValueError, ("qk_norm_eps", "0.0", "positive")),
    ({"qk_norm_eps": None}, ValueError, ("parameters", "q_norm.weight")),
    ({"rope_style": "neox"}, ValueError, ("style", "'neox'", "half, interleaved")),
    ({"attention_mask": torch.zeros(2, 3)}, TypeError, ("attention_mask", "float32", "boolean key mask")),
    ({"attention_mask": torch.ones(2, 4, dtype=torch.bool)}, ValueError, ("attention_mask", "(2, 4)", "S=3")),
    ({"position_embeddings": tables(2, 3, 6, style="half", seed=7)}, ValueError, ("cos", "(2, 3, 6)", "R=4")),
]


@pytest.mark.parametrize(("change", "error", "parts"), REFUSALS)
def test_a_wrong_argument_is_refused(change: dict[str, Any], error: type[Exception], parts: tuple[str, ...]) -> None:
    arguments: dict[str, Any] = {
        "hidden_states": normal(2, 3, 5, seed=0),
        "attention_mask": None,
        "position_embeddings": tables(2, 3, 4, style="half", seed=7),
        "parameters": parameters_of(grouped_shapes(), seed=1),
        **GROUPED,
        **change,
    }
    assert_refused(lambda: grouped_query_attention(**arguments), error, *parts)
