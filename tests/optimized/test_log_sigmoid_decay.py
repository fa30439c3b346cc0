"""The kernels of the log-sigmoid decay gate against the formula in float64, and what they must do exactly."""

import pytest
import torch

from optimized.log_sigmoid_decay import log_sigmoid_decay, supports
from tests.optimized.bounds import unit_roundoff
from tests.optimized.comparison import compared, differentiated, normal, worst_ratio
from tests.optimized.refusals import assert_refused

SHAPES = [(2, 40, 5), (1, 1, 1), (3, 70, 33), (2, 3, 700), (0, 4, 3), (3, 0, 3), (2, 3, 0)]

FUNCTION_ROUNDINGS = 12
"""Float32 roundings of the function or its derivative (9, ``tests/optimized/test_elementary.py``), of the normalizer,
of the division by it and of a product."""


def _formula(x: torch.Tensor, *, normalizer: float) -> torch.Tensor:
    return -torch.logaddexp(-x, torch.zeros_like(x)) / normalizer


def _bounds(x: torch.Tensor, cotangent: torch.Tensor, *, normalizer: float) -> list[torch.Tensor]:
    """Returns bounds of the output and the gradient: both are relative, and a stored result adds its own rounding."""
    relative, wide = FUNCTION_ROUNDINGS * unit_roundoff(torch.float32), x.double()
    out = _formula(wide, normalizer=normalizer).abs()
    gradient = (cotangent.double() * torch.sigmoid(-wide) / normalizer).abs()
    return [
        relative * out + torch.finfo(torch.float32).tiny,
        (relative + unit_roundoff(x.dtype)) * gradient + torch.finfo(x.dtype).tiny,
    ]


def _worst_ratio(x: torch.Tensor, *, normalizer: float) -> float:
    cotangent = normal(*x.shape, seed=1)
    pairs = compared(log_sigmoid_decay, _formula, [x], cotangent, normalizer=normalizer)
    return worst_ratio(pairs, _bounds(x, cotangent, normalizer=normalizer))


@pytest.mark.parametrize("scale", [1.0, 20.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_results_and_gradients_lie_within_the_roundings_of_the_recipe(
    shape: tuple[int, ...], dtype: torch.dtype, scale: float
) -> None:
    assert _worst_ratio(normal(*shape, scale=scale, dtype=dtype), normalizer=16.0) <= 1


@pytest.mark.parametrize("normalizer", [0.1, 1, 16.0])
def test_every_normalizer_divides_both_passes(normalizer: float) -> None:
    assert _worst_ratio(normal(2, 9, 5), normalizer=normalizer) <= 1


def test_the_relative_accuracy_holds_at_both_ends() -> None:
    assert _worst_ratio(torch.linspace(-85, 85, 500).view(1, 100, 5), normalizer=1.0) <= 1


def test_the_result_is_float32_and_the_gradient_is_not() -> None:
    out, gradient = differentiated(
        log_sigmoid_decay, [normal(2, 9, 5, dtype=torch.bfloat16)], normal(2, 9, 5, seed=1), normalizer=16.0
    )
    assert (out.dtype, gradient.dtype) == (torch.float32, torch.bfloat16)


def test_strides_change_no_bit() -> None:
    x, cotangent = normal(2, 30, 12)[..., 3:8], normal(5, seed=1).expand(2, 30, 5)
    runs = [
        (x, cotangent),
        (x.contiguous(), cotangent.contiguous()),
        (x.transpose(0, 1).contiguous().transpose(0, 1), cotangent),
    ]
    first, *others = [differentiated(log_sigmoid_decay, [each], gradient, normalizer=3.0) for each, gradient in runs]
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


def test_a_format_without_kernels_is_refused() -> None:
    sentence = "dtype: got torch.float64, expected float32, bfloat16 or float16"
    assert_refused(log_sigmoid_decay, supports, torch.zeros(1, 2, 3).double(), sentence=sentence, normalizer=16.0)


@pytest.mark.parametrize(
    ("shape", "normalizer", "words"),
    [
        ((2, 3), 1.0, r"x: got shape \(2, 3\), expected \(B, T, H\)"),
        ((1, 2, 3), 0.0, "normalizer: got 0.0, expected a positive number"),
        ((1, 2, 3), float("nan"), "normalizer: got nan, expected a positive number"),
    ],
)
def test_arguments_that_do_not_fit_are_named(shape: tuple[int, ...], normalizer: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        log_sigmoid_decay(torch.zeros(shape), normalizer=normalizer)
