from typing import Any

import pytest
import torch
from torch.nn import functional

from reference import low_rank_projection
from tests.reference.agree import assert_agree, assert_refused, gradients
from tests.reference.draws import LOW_RANK, low_rank_shapes, normal, parameters_of


def test_it_is_two_linear_maps_around_a_norm() -> None:
    x, parameters = normal(2, 3, 5, seed=0), parameters_of(low_rank_shapes(), seed=1)
    inputs = [x, *parameters.values()]
    down = functional.linear(x, parameters["down_proj.weight"])
    normed = functional.rms_norm(down, (3,), parameters["norm.weight"], LOW_RANK["norm_eps"])
    theirs = functional.linear(normed, parameters["up_proj.weight"])
    ours = low_rank_projection(x, parameters, **LOW_RANK)
    assert_agree(ours, theirs, operations=5 + 3 + 3 + 8, condition=1 + float(theirs.detach().abs().max()))
    for a, b in zip(gradients([ours], inputs), gradients([theirs], inputs), strict=True):
        assert_agree(a, b, operations=4 * (5 + 3 + 3 + 8), condition=1 + float(b.abs().max()))


def test_the_scale_of_the_input_is_normalised_away() -> None:
    x, parameters = normal(2, 3, 5, seed=0), parameters_of(low_rank_shapes(), seed=1)
    config = LOW_RANK | {"norm_eps": 1e-300}
    one, other = low_rank_projection(x, parameters, **config), low_rank_projection(1024 * x, parameters, **config)
    assert torch.equal(one, other)


def test_leading_axes_are_free() -> None:
    x, parameters = normal(5, seed=0), parameters_of(low_rank_shapes(), seed=1)
    assert low_rank_projection(x, parameters, **LOW_RANK).shape == (4,)


REFUSALS: list[tuple[dict[str, Any], type[Exception], tuple[str, ...]]] = [
    ({"hidden_states": normal(2, 4, seed=0)}, ValueError, ("hidden_states", "(2, 4)", "5")),
    ({"norm_eps": 0.0}, ValueError, ("norm_eps", "0.0", "positive")),
    ({"bottleneck": 2}, ValueError, ("parameters['down_proj.weight']", "(3, 5)", "(2, 5)")),
    ({"parameters": {}}, ValueError, ("parameters", "[]", "down_proj.weight")),
]


@pytest.mark.parametrize(("change", "error", "parts"), REFUSALS)
def test_a_wrong_argument_is_refused(change: dict[str, Any], error: type[Exception], parts: tuple[str, ...]) -> None:
    parameters = parameters_of(low_rank_shapes(), seed=1)
    arguments: dict[str, Any] = {"hidden_states": normal(2, 5, seed=0), "parameters": parameters, **LOW_RANK, **change}
    assert_refused(lambda: low_rank_projection(**arguments), error, *parts)


def test_a_parameter_of_another_dtype_is_refused() -> None:
    parameters = parameters_of(low_rank_shapes(), seed=1)
    parameters["norm.weight"] = parameters["norm.weight"].float()
    assert_refused(
        lambda: low_rank_projection(normal(2, 5, seed=0), parameters, **LOW_RANK),
        TypeError,
        "parameters['norm.weight']",
        "float32",
        "float64",
    )
