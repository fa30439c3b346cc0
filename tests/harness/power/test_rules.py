"""The rules of other projects on examples whose thresholds are worked out by hand, on both sides of each."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from harness.power.rules import RULES, d9d, fla, fla_ci, flash_attention, kernelbench, rejected, torch_defaults
from tests.harness.judging import NORM, example

ONES = torch.ones(4, dtype=torch.float64)
NONE = torch.zeros(1, 4, dtype=torch.float64)


def off_by(error: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """Returns ones, the first off by so much."""
    return (ONES + torch.tensor([error, 0, 0, 0], dtype=torch.float64)).to(dtype)


def passes(rule: Callable[[Tensor, Tensor, Tensor], bool], error: float, baseline: float = 0.0) -> bool:
    return rule(off_by(error), ONES, NONE + baseline)


@pytest.mark.parametrize(("error", "expected"), [(0.0199, True), (0.0201, False)])
def test_flash_attention_allows_twice_the_error_of_a_low_precision_run(error: float, expected: bool) -> None:  # noqa: FBT001
    assert passes(flash_attention, error, baseline=0.01) is expected


@pytest.mark.parametrize(("error", "expected"), [(2**-7, True), (2**-5, False)])
def test_flash_attention_allows_the_noise_of_one_addition(error: float, expected: bool) -> None:  # noqa: FBT001
    """In bfloat16, 1 + 0.3 is 1.296875, less 0.3 is 0.99609375: 2**-8 off, of which twice is allowed."""
    assert flash_attention(off_by(error, torch.bfloat16), ONES, NONE) is expected


@pytest.mark.parametrize(("error", "expected"), [(0.0099, True), (0.0101, False)])
def test_fla_allows_half_a_percent_of_the_rms(error: float, expected: bool) -> None:  # noqa: FBT001
    """One of four elements off by e is an RMS error of e / 2 beside an RMS of 1."""
    assert passes(fla, error) is expected


def test_fla_allows_any_error_up_to_1e_6() -> None:
    tiny = ONES * 1e-6
    assert fla(tiny * 1.9, tiny, NONE)
    assert not fla(tiny * 2.1, tiny, NONE)


@pytest.mark.parametrize(("error", "expected"), [(0.29, True), (0.31, False)])
def test_fla_in_its_ci_allows_0_3(error: float, expected: bool) -> None:  # noqa: FBT001
    assert passes(fla_ci, error) is expected


def test_fla_in_its_ci_allows_one_percent_of_large_values() -> None:
    large = ONES * 100
    assert fla_ci(large + torch.tensor([1.9, 0, 0, 0]), large, NONE)
    assert not fla_ci(large + torch.tensor([2.1, 0, 0, 0]), large, NONE)


@pytest.mark.parametrize(
    ("dtype", "fine", "wrong"),
    [(torch.bfloat16, 2**-6, 2**-5), (torch.float16, 2**-10, 2**-9), (torch.float32, 1.1e-5, 1.2e-5)],
)
def test_torch_s_defaults_go_by_the_dtype(dtype: torch.dtype, fine: float, wrong: float) -> None:
    """Allowed beside 1: 0.01601 in bfloat16, 0.00101 in float16, 1.13e-5 in float32."""
    assert torch_defaults(off_by(fine, dtype), ONES, NONE)
    assert not torch_defaults(off_by(wrong, dtype), ONES, NONE)


@pytest.mark.parametrize(("error", "expected"), [(0.0199, True), (0.0201, False)])
def test_allclose_allows_one_percent_twice(error: float, expected: bool) -> None:  # noqa: FBT001
    assert passes(kernelbench, error) is expected


@pytest.mark.parametrize(("error", "expected"), [(0.0999, True), (0.1001, False)])
def test_d9d_allows_five_percent_twice(error: float, expected: bool) -> None:  # noqa: FBT001
    assert passes(d9d, error) is expected


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_every_rule_rejects_what_is_not_finite(rule: Callable[[Tensor, Tensor, Tensor], bool], value: float) -> None:
    assert not rule(off_by(value), ONES, NONE)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_rule_takes_the_same_infinity_for_equal(rule: Callable[[Tensor, Tensor, Tensor], bool]) -> None:
    assert rule(off_by(-math.inf), off_by(-math.inf), NONE)


def test_a_tensor_of_another_shape_fails_by_every_rule() -> None:
    norm = example(NORM, "float32")
    assert rejected({"out": torch.ones(3)}, {"out": norm.budgets["out"]}) == {name: ["out"] for name in RULES}


def test_what_a_healthy_execution_returns_fails_by_no_rule_in_bfloat16() -> None:
    norm = example(NORM, "bfloat16")
    assert rejected(norm.healthy(), norm.budgets) == {name: [] for name in RULES}


def test_a_missing_gradient_fails_unless_it_is_zero() -> None:
    budget = example(NORM, "float32").budgets["grad:x"]
    zero = replace(budget, expected=torch.zeros_like(budget.expected))
    assert rejected({}, {"grad:x": budget, "grad:y": zero}) == {name: ["grad:x"] for name in RULES}
