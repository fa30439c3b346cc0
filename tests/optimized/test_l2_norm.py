"""The L2 norm's kernels against the formula in float64, and what they must do exactly."""

from typing import Any

import pytest
import torch

from optimized.l2_norm import l2_norm, supports
from tests.optimized.bounds import unit_roundoff
from tests.optimized.comparison import compared, differentiated, normal, worst_ratio
from tests.optimized.refusals import assert_refused

EPS = 1e-6

SHAPES = [(5, 40), (2, 7, 3, 72), (1, 1), (3, 300), (40, 16), (7,), (0, 8), (4, 0), (2, 3, 2, 2, 24)]


def _formula(x: torch.Tensor, *, eps: float) -> torch.Tensor:
    return x / (x.square().sum(-1, keepdim=True) + eps).sqrt()


def _bounds(x: torch.Tensor, cotangent: torch.Tensor, *, eps: float, dtype: torch.dtype) -> list[torch.Tensor]:
    """Returns bounds of the output and the gradient, of float64 arguments.

    The inverse root carries the C + 4 float32 roundings of a sum of C squares; the sum of the backward pass adds C + 4,
    every product one and every stored result one rounding of its format. The two terms of the gradient may cancel: the
    bound uses the sum of their magnitudes.
    """
    u32, u = unit_roundoff(torch.float32), unit_roundoff(dtype)
    C = x.shape[-1]
    inverse = (x.square().sum(-1, keepdim=True) + eps).rsqrt()
    unit = (x * inverse).abs()
    terms = inverse * (cotangent.abs() + unit * (cotangent.abs() * unit).sum(-1, keepdim=True))
    tiny = torch.finfo(dtype).tiny
    return [((C + 6) * u32 + u) * unit + tiny, ((4 * C + 24) * u32 + u) * terms + tiny]


def _worst_ratio(x: torch.Tensor, *, eps: float = EPS) -> float:
    cotangent = normal(*x.shape, seed=1, dtype=x.dtype)
    pairs = compared(l2_norm, _formula, [x], cotangent, eps=eps)
    return worst_ratio(pairs, _bounds(x.double(), cotangent.double(), eps=eps, dtype=x.dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_results_and_gradients_lie_within_the_roundings_of_the_recipe(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    assert _worst_ratio(normal(*shape, dtype=dtype)) <= 1


def test_a_row_of_32768_columns_is_one_of_many_tiles() -> None:
    assert _worst_ratio(normal(2, 32768)) <= 1


@pytest.mark.parametrize("magnitude", [1e-4, 1e4])
def test_eps_stands_inside_the_root(magnitude: float) -> None:
    assert _worst_ratio(normal(5, 40, scale=magnitude), eps=1e-8) <= 1


@pytest.mark.parametrize("width", [8, 200])
def test_a_zero_row_gives_zero_and_the_gradient_of_the_bare_root(width: int) -> None:
    out, gradient = differentiated(l2_norm, [torch.zeros(3, width)], torch.ones(3, width), eps=0.25)
    assert torch.equal(out, torch.zeros(3, width))
    assert torch.equal(gradient, torch.full((3, width), 2.0))


@pytest.mark.parametrize("width", [24, 100])
def test_strides_change_no_bit(width: int) -> None:
    heads = normal(2, 5, 9, width)[:, :, 2:7]
    cotangent = normal(width, seed=1).expand(2, 5, 5, width)
    runs = [
        (heads, cotangent),
        (heads.contiguous(), cotangent),
        (heads.transpose(1, 3).contiguous().transpose(1, 3), cotangent),
        (heads, cotangent.contiguous()),
    ]
    first, *others = [differentiated(l2_norm, [x], gradient, eps=EPS) for x, gradient in runs]
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


def test_eps_is_a_millionth_by_default() -> None:
    x = normal(3, 8, scale=1e-3)
    assert torch.equal(l2_norm(x), l2_norm(x, eps=1e-6))


def test_a_format_without_kernels_is_refused() -> None:
    sentence = "dtype: got torch.float64, expected float32, bfloat16 or float16"
    assert_refused(l2_norm, supports, torch.zeros(3, 8).double(), sentence=sentence)


@pytest.mark.parametrize(
    ("x", "options", "words"),
    [
        (torch.tensor(1.0), {}, r"x: got shape \(\), expected \(\.\.\., C\)"),
        (torch.zeros(3, 8), {"eps": 0.0}, "eps: got 0.0, expected a positive number that float32 holds"),
        (torch.zeros(3, 8), {"eps": 1e-50}, "eps: got 1e-50, expected a positive number that float32 holds"),
    ],
)
def test_arguments_that_do_not_fit_are_named(x: torch.Tensor, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        l2_norm(x, **options)
