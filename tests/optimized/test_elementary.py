"""The functions that kernels share, against float64, over the whole range of float32."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from optimized.kernels.elementary import accurate_exp, log1p_exp, sigmoid_pair
from optimized.kernels.precision import non_stop_arithmetic
from tests.optimized.bounds import unit_roundoff

COUNT = 1 << 15

SMALLEST_NORMAL = torch.finfo(torch.float32).tiny


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _evaluate(x_pointer: tl.tensor, out_pointer: tl.tensor, NAME: tl.constexpr, COUNT: tl.constexpr) -> None:
    at = tl.arange(0, COUNT)
    x = tl.load(x_pointer + at)
    if NAME == "exp":
        y = accurate_exp(x)
    elif NAME == "log1p_exp":
        y = log1p_exp(-tl.abs(x))
    elif NAME == "sigmoid":
        y, _ = sigmoid_pair(x)
    else:
        _, y = sigmoid_pair(x)
    tl.store(out_pointer + at, y)


EXACT: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "exp": torch.exp,
    "log1p_exp": lambda x: torch.log1p(torch.exp(-x.abs())),
    "sigmoid": torch.sigmoid,
    "one_less_sigmoid": lambda x: torch.sigmoid(-x),
}

ROUNDINGS = {"exp": 5, "log1p_exp": 9, "sigmoid": 9, "one_less_sigmoid": 9}
"""An exponential: three of the reduced argument, at most 0.35, two of the last sum, and half of one of a quotient. The
others add those of a sum, of a quotient or two steps of Newton, and of two products."""


def _values(name: str, x: torch.Tensor) -> torch.Tensor:
    assert x.numel() == COUNT
    out = torch.empty_like(x)
    kernel: Any = _evaluate
    with non_stop_arithmetic():
        kernel[(1,)](x, out, NAME=name, COUNT=COUNT)
    return out


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("largest", [1e-3, 1.0, 30.0, 87.0])
def test_every_value_is_right_to_a_few_roundings(name: str, largest: float) -> None:
    x = torch.linspace(-largest, largest, COUNT)
    expected = EXACT[name](x.double())
    error = (_values(name, x).double() - expected).abs()
    assert float((error / expected).max()) <= ROUNDINGS[name] * unit_roundoff(torch.float32)


@pytest.mark.parametrize("name", EXACT)
def test_values_below_the_smallest_normal_number_are_off_by_one_of_the_smallest_steps(name: str) -> None:
    x = torch.linspace(-110, -87.5, COUNT)
    x = -x if name == "one_less_sigmoid" else x
    error = (_values(name, x).double() - EXACT[name](x.double())).abs()
    step = SMALLEST_NORMAL * torch.finfo(torch.float32).eps
    # What the last product rounds is off by the roundings of a normal number, less than half a step here, and its own.
    assert float(error.max()) <= step


@pytest.mark.parametrize(
    ("name", "at_minus_infinity", "at_infinity"),
    [("exp", 0.0, math.inf), ("log1p_exp", 0.0, 0.0), ("sigmoid", 0.0, 1.0), ("one_less_sigmoid", 1.0, 0.0)],
)
def test_infinite_and_huge_arguments_give_the_limits(name: str, at_minus_infinity: float, at_infinity: float) -> None:
    x = torch.tensor([-math.inf, -1e30, math.inf, 1e30]).repeat(COUNT // 4)
    limits = torch.tensor([at_minus_infinity, at_minus_infinity, at_infinity, at_infinity])
    assert torch.equal(_values(name, x)[:4], limits)


@pytest.mark.parametrize("name", EXACT)
def test_a_nan_stays_a_nan(name: str) -> None:
    assert bool(_values(name, torch.full((COUNT,), math.nan)).isnan().all())
