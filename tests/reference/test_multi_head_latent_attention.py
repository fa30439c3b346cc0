from typing import Any

import pytest
import torch

from reference import multi_head_latent_attention
from tests.reference.agree import assert_agree, assert_refused, gradients
from tests.reference.draws import LATENT, latent_shapes, normal, parameters_of, tables
from tests.reference.second.absorbed_latent_attention import absorbed_latent_attention

CONFIGS: dict[str, dict[str, Any]] = {
    "values wider than keys": LATENT,
    "values narrower than keys": LATENT | {"v_head_dim": 2},
    "plain query projection": LATENT | {"q_lora_rank": None},
    "half": LATENT | {"rope_style": "half"},
    "not causal": LATENT | {"is_causal": False},
    "one head": LATENT | {"num_attention_heads": 1},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_absorbed_form_agrees_with_its_gradients(name: str) -> None:
    config = CONFIGS[name]
    x, parameters = normal(2, 5, 5, seed=0), parameters_of(latent_shapes(config), seed=1)
    angles = normal(2, 5, 2, seed=7, requires_grad=False)
    embeddings = tables(2, 5, 4, style=config["rope_style"], seed=7)
    ours = multi_head_latent_attention(x, None, embeddings, parameters, **config)
    theirs = absorbed_latent_attention(x, parameters, angles, config)
    inputs = [x, *parameters.values()]
    length = 5 + 3 + 5 + 3 + 4 + 2 * 5 + 18 + 30
    assert_agree(ours, theirs, operations=length, condition=10 + float(theirs.detach().abs().max()))
    for a, b in zip(gradients([ours], inputs), gradients([theirs], inputs), strict=True):
        assert_agree(a, b, operations=4 * length, condition=10 + float(b.abs().max()))


def test_masked_keys_have_no_influence() -> None:
    x, parameters = normal(1, 4, 5, seed=0), parameters_of(latent_shapes(), seed=1)
    embeddings = tables(1, 4, 4, style="interleaved", seed=7)
    mask = torch.tensor([[True, False, True, True]])
    other = torch.cat((x[:, :1], 9 * x[:, 1:2], x[:, 2:]), 1)
    one, two = (multi_head_latent_attention(y, mask, embeddings, parameters, **LATENT) for y in (x, other))
    visible = [0, 2, 3]
    assert_agree(one[:, visible], two[:, visible], operations=128, condition=1 + float(one.detach().abs().max()))


def test_the_first_token_passes_its_own_value() -> None:
    config = LATENT | {"kv_lora_rank": 1, "qk_down_norm_eps": 1e-300}
    x, parameters = normal(1, 1, 5, seed=0), parameters_of(latent_shapes(config), seed=1)
    embeddings = tables(1, 1, 4, style="interleaved", seed=7)
    sign = (x @ parameters["kv_down_proj.weight"][0]).sign() * parameters["kv_down_norm.weight"]
    values = parameters["kv_up_proj.weight"].view(2, 12)[:, 3:].flatten() * sign
    expected = (parameters["o_proj.weight"] @ values[0])[None, None]
    actual = multi_head_latent_attention(x, None, embeddings, parameters, **config)
    assert_agree(actual, expected, operations=18 + 8, condition=10.0)


REFUSALS: list[tuple[dict[str, Any], type[Exception], tuple[str, ...]]] = [
    ({"hidden_states": normal(2, 3, 4, seed=0)}, ValueError, ("hidden_states", "(2, 3, 4)", "hidden_size=5")),
    ({"qk_rope_head_dim": 3}, ValueError, ("qk_rope_head_dim", "3", "even")),
    ({"qk_down_norm_eps": -1.0}, ValueError, ("qk_down_norm_eps", "-1.0", "positive")),
    ({"q_lora_rank": None}, ValueError, ("parameters", "q_proj.weight", "q_proj.down_proj.weight")),
    ({"kv_lora_rank": 4}, ValueError, ("parameters['kv_down_proj.weight']", "(9, 5)", "(8, 5)")),
    ({"rope_style": "gptj"}, ValueError, ("style", "'gptj'", "interleaved")),
    ({"attention_mask": torch.zeros(2, 1, 3, 3)}, TypeError, ("attention_mask", "float32", "boolean key mask")),
    ({"position_embeddings": tables(2, 3, 2, style="half", seed=7)}, ValueError, ("cos", "(2, 3, 2)", "R=4")),
]


@pytest.mark.parametrize(("change", "error", "parts"), REFUSALS)
def test_a_wrong_argument_is_refused(change: dict[str, Any], error: type[Exception], parts: tuple[str, ...]) -> None:
    arguments: dict[str, Any] = {
        "hidden_states": normal(2, 3, 5, seed=0),
        "attention_mask": None,
        "position_embeddings": tables(2, 3, 4, style="interleaved", seed=7),
        "parameters": parameters_of(latent_shapes(), seed=1),
        **LATENT,
        **change,
    }
    assert_refused(lambda: multi_head_latent_attention(**arguments), error, *parts)
