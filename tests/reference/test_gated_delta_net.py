from typing import Any

import pytest
import torch

from reference import gated_delta_net
from tests.reference.agree import assert_agree, assert_refused, gradients
from tests.reference.draws import DELTA_NET, delta_net_shapes, normal, parameters_of
from tests.reference.second.plain_layers import plain_delta_net

CONFIGS: dict[str, dict[str, Any]] = {
    "mamba": DELTA_NET,
    "log-sigmoid": DELTA_NET | {"decay_gate": {"type": "logsigmoid", "normalizer": 16.0}},
    "no l2 norm": DELTA_NET | {"use_qk_l2norm": False},
    "one tap": DELTA_NET | {"conv_size": 1},
    "as many query heads": DELTA_NET | {"num_query_key_heads": 4},
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("has_mask", [True, False])
def test_the_chunked_layer_agrees_with_its_gradients(name: str, *, has_mask: bool) -> None:
    config = CONFIGS[name]
    x, parameters = normal(2, 7, 5, seed=0), parameters_of(delta_net_shapes(config), seed=1)
    mask = torch.tensor([[True] * 7, [False, False, True, True, False, True, True]]) if has_mask else None
    ours = gated_delta_net(x, mask, parameters, **config)
    theirs = plain_delta_net(x, mask, parameters, config, chunk=3)
    inputs = [x, *parameters.values()]
    length = 5 + 3 + 7 * 4 * 6 + 2 + 8 + 20
    assert_agree(ours, theirs, operations=length, condition=10 + float(theirs.detach().abs().max()))
    for a, b in zip(gradients([ours], inputs), gradients([theirs], inputs), strict=True):
        assert_agree(a, b, operations=4 * length, condition=10 + float(b.abs().max()))


def test_future_tokens_do_not_change_the_past() -> None:
    x, parameters = normal(1, 6, 5, seed=0), parameters_of(delta_net_shapes(), seed=1)
    other = torch.cat((x[:, :3], 7 * x[:, 3:]), 1)
    one, two = (gated_delta_net(y, None, parameters, **DELTA_NET) for y in (x, other))
    assert_agree(one[:, :3], two[:, :3], operations=128, condition=10.0)
    assert not torch.equal(one[:, 3:], two[:, 3:])


def test_masked_tokens_give_zero() -> None:
    x, parameters = normal(1, 4, 5, seed=0), parameters_of(delta_net_shapes(), seed=1)
    out = gated_delta_net(x, torch.tensor([[True, False, True, False]]), parameters, **DELTA_NET)
    assert out.ne(0).any(-1).tolist() == [[True, False, True, False]]


def test_padding_on_the_left_changes_nothing() -> None:
    x, parameters = normal(1, 4, 5, seed=0), parameters_of(delta_net_shapes(), seed=1)
    padded, mask = torch.cat((normal(1, 3, 5, seed=9), x), 1), torch.arange(7)[None] >= 3
    alone = gated_delta_net(x, None, parameters, **DELTA_NET)
    beside = gated_delta_net(padded, mask, parameters, **DELTA_NET)[:, 3:]
    assert_agree(beside, alone, operations=128, condition=10.0)


def test_a_mask_of_ones_and_zeros_is_a_boolean_mask() -> None:
    x, parameters = normal(1, 4, 5, seed=0), parameters_of(delta_net_shapes(), seed=1)
    mask = torch.tensor([[True, False, True, True]])
    one, two = (gated_delta_net(x, m, parameters, **DELTA_NET) for m in (mask, mask.double()))
    assert torch.equal(one, two)


REFUSALS: list[tuple[dict[str, Any], type[Exception], tuple[str, ...]]] = [
    ({"hidden_states": normal(2, 3, 4, seed=0)}, ValueError, ("hidden_states", "(2, 3, 4)", "hidden_size=5")),
    ({"num_query_key_heads": 3}, ValueError, ("num_value_heads", "4", "3 of num_query_key_heads")),
    ({"norm_eps": 0.0}, ValueError, ("norm_eps", "0.0", "positive")),
    ({"conv_size": 4}, ValueError, ("parameters['qkv_conv1d.weight']", "(20, 3)", "(20, 4)")),
    ({"decay_gate": {"type": "gla"}}, ValueError, ("decay_gate['type']", "'gla'", "'logsigmoid'")),
    ({"decay_gate": {"type": "logsigmoid"}}, ValueError, ("decay_gate", "['type']", "normalizer")),
    ({"decay_gate": {"type": "logsigmoid", "normalizer": 0.0}}, ValueError, ("normalizer", "0.0", "positive")),
    ({"decay_gate": {"type": "logsigmoid", "normalizer": 1.0}}, ValueError, ("parameters", "decay_gate.A_log")),
    ({"attention_mask": torch.ones(2, 3, dtype=torch.int64)}, TypeError, ("attention_mask", "int64")),
    ({"attention_mask": torch.ones(2, 4, dtype=torch.bool)}, ValueError, ("attention_mask", "(2, 4)", "T=3")),
]


@pytest.mark.parametrize(("change", "error", "parts"), REFUSALS)
def test_a_wrong_argument_is_refused(change: dict[str, Any], error: type[Exception], parts: tuple[str, ...]) -> None:
    arguments: dict[str, Any] = {
        "hidden_states": normal(2, 3, 5, seed=0),
        "attention_mask": None,
        "parameters": parameters_of(delta_net_shapes(), seed=1),
        **DELTA_NET,
        **change,
    }
    assert_refused(lambda: gated_delta_net(**arguments), error, *parts)
