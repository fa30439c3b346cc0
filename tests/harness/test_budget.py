import dataclasses

import pytest
import torch
from torch import Tensor

from harness.budget import LAMBDA, Budget, measure_budgets
from harness.emulators.rounding import half_ulp, to_nearest
from harness.metrics import project, rms
from harness.truth import Truth
from tests.harness.judging import ATTENTION, NORM, RULE, Example, example

EXAMPLES = [
    pytest.param(data, dtype, id=f"{data['op']}-{dtype}")
    for data in (ATTENTION, NORM, RULE)
    for dtype in ("float32", "bfloat16", "float16")
]


def budgets_of(data: dict[str, object], dtype: str) -> dict[str, Budget]:
    return dict(example(data, dtype).budgets)


@pytest.mark.parametrize(("data", "dtype"), EXAMPLES)
def test_every_output_and_gradient_has_a_budget(data: dict[str, object], dtype: str) -> None:
    found = example(data, dtype)
    assert found.budgets.keys() == found.expected.expected.keys()


@pytest.mark.parametrize(("data", "dtype"), EXAMPLES)
def test_a_tolerance_is_positive_and_finite(data: dict[str, object], dtype: str) -> None:
    for budget in budgets_of(data, dtype).values():
        assert bool((budget.tolerance > 0).all() and budget.tolerance.isfinite().all())


@pytest.mark.parametrize(("data", "dtype"), EXAMPLES)
def test_a_tolerance_holds_the_last_store(data: dict[str, object], dtype: str) -> None:
    for budget in budgets_of(data, dtype).values():
        stored = torch.where(budget.expected == 0, 0.0, half_ulp(budget.expected, budget.fmt))
        assert bool((budget.tolerance >= stored).all())


@pytest.mark.parametrize(("data", "dtype"), EXAMPLES)
def test_a_healthy_execution_is_within_the_tolerance(data: dict[str, object], dtype: str) -> None:
    for budget in budgets_of(data, dtype).values():
        assert bool((budget.nearest.abs() <= budget.tolerance).all())


def spread(budget: Budget) -> float:
    return budget.sigma.square().mean().sqrt().item()


@pytest.mark.parametrize(("data", "dtype"), EXAMPLES)
def test_a_wider_format_has_a_smaller_budget(data: dict[str, object], dtype: str) -> None:
    if dtype == "float32":
        pytest.skip("float32 is the widest of the three, which the other two are compared with")
    narrow, wide = budgets_of(data, dtype), budgets_of(data, "float32")
    assert all(spread(wide[name]) < spread(narrow[name]) / 8 for name in wide if name != "lse")


def hidden(budget: Budget) -> Tensor:
    """Returns where zero is structural: every execution gives zero."""
    return (budget.expected == 0) & (budget.samples == 0).all(0) & (budget.nearest == 0).all(0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_hidden_key_gets_no_gradient_and_no_tolerance_above_underflow(dtype: str) -> None:
    budget = example(ATTENTION, dtype).budgets["grad:key"]
    assert bool(hidden(budget).any())
    smallest = torch.finfo(getattr(torch, dtype)).smallest_normal if dtype != "float16" else 2.0**-24
    assert budget.tolerance[hidden(budget)].max().item() <= smallest


def test_what_is_zero_by_cancellation_has_a_tolerance() -> None:
    found = example(NORM, "bfloat16")
    name = "out"
    shifted = {
        name: torch.zeros_like(value) if name == "out" else value for name, value in found.expected.expected.items()
    }
    truth = Truth(expected=shifted, tangents={})
    inputs = found.row.inputs(found.case)
    budget = measure_budgets(found.row, found.case, inputs, found.recipe, truth)[name]
    assert bool((budget.tolerance > 2.0**-20).all())


def test_more_samples_keep_the_size_of_a_budget() -> None:
    found = example(ATTENTION, "bfloat16")
    inputs = found.row.inputs(found.case)
    more = measure_budgets(found.row, found.case, inputs, found.recipe, found.expected, samples=32)
    for name, budget in found.budgets.items():
        ratio = (more[name].sigma.square().sum() / budget.sigma.square().sum()).sqrt().item()
        # Eight samples know a mean square to one part in two at worst, when a whole tensor shares one rounding.
        assert 0.5 < ratio < 2


def test_the_same_case_has_the_same_budget() -> None:
    found = example(NORM, "float16")
    again = measure_budgets(found.row, found.case, found.row.inputs(found.case), found.recipe, found.expected)
    assert all(torch.equal(again[name].tolerance, budget.tolerance) for name, budget in found.budgets.items())


def test_what_overflows_in_a_healthy_execution_is_marked() -> None:
    large = example({**NORM, "regime": "large"}, "float16")
    scaled = Truth(expected={"out": large.expected.expected["out"]}, tangents={})
    inputs = large.row.inputs(large.case)
    weight = torch.full_like(inputs.tensors["weight"], 6e4)
    beyond = dataclasses.replace(inputs, tensors={**inputs.tensors, "weight": weight})
    expected = scaled.expected["out"] / inputs.tensors["weight"].double() * 6e4
    budget = measure_budgets(
        large.row, large.case, beyond, large.recipe, Truth(expected={"out": expected}, tangents={})
    )["out"]
    assert torch.equal(budget.overflow, to_nearest(expected, "float16").isinf())
    assert bool(budget.overflow.any())


@pytest.fixture
def found() -> Example:
    return example(ATTENTION, "bfloat16")


@pytest.mark.parametrize("gain", [-0.02, 0.01, 0.3])
def test_a_gain_is_estimated_by_what_it_is(found: Example, gain: float) -> None:
    budget = found.budgets["out"]
    result = project(budget, gain * budget.expected, budget.expected)
    assert result is not None
    # Sums of 6,336 products in float64.
    assert result.value == pytest.approx(gain, rel=budget.expected.numel() * 2**-52)


def test_no_error_has_no_gain(found: Example) -> None:
    budget = found.budgets["out"]
    result = project(budget, torch.zeros_like(budget.expected), budget.expected)
    assert result is not None
    assert result.value == 0


def test_the_scale_of_a_direction_cancels(found: Example) -> None:
    budget = found.budgets["out"]
    first, second = (project(budget, 0.01 * budget.expected, scale * budget.expected) for scale in (1.0, 4.0))
    assert first is not None
    assert second is not None
    assert (first.value / 4, first.limit / 4) == (second.value, second.limit)


def test_a_direction_that_vanishes_has_no_projection(found: Example) -> None:
    budget = found.budgets["out"]
    assert project(budget, budget.expected, torch.zeros_like(budget.expected)) is None


def test_a_legal_limit_is_seven_standard_errors_above_nearest(found: Example) -> None:
    budget = found.budgets["out"]
    result = project(budget, budget.expected, budget.expected)
    assert result is not None
    assert result.limit >= LAMBDA * result.error


def test_rms_is_in_units_of_sigma(found: Example) -> None:
    budget = found.budgets["out"]
    # A mean of 6,336 squares in float64.
    assert rms(budget, 3 * budget.sigma) == pytest.approx(3, rel=budget.sigma.numel() * 2**-52)


def test_rms_of_a_healthy_execution_is_at_most_about_one() -> None:
    for data in (ATTENTION, NORM, RULE):
        for budget in example(data, "bfloat16").budgets.values():
            found_rms = rms(budget, budget.nearest[0])
            assert found_rms is not None
            assert found_rms < LAMBDA / 2
