"""The judge is judged: a planted fault turns exactly its own judgement red, and nothing excuses it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.judge import judge_missing
from harness.records import Judgement, Verdict
from tests.harness.judging import ATTENTION, NORM, RULE, Example, example

EXAMPLES = [
    pytest.param(data, dtype, id=f"{data['op']}-{dtype}")
    for data in (ATTENTION, NORM, RULE)
    for dtype in ("float32", "bfloat16", "float16")
]
TENSORS = [
    pytest.param(data, dtype, name, id=f"{data['op']}-{dtype}-{name}")
    for data, names in (
        (ATTENTION, ("out", "lse", "grad:query", "grad:key", "grad:value", "grad:sinks")),
        (NORM, ("out", "grad:x", "grad:weight")),
        (RULE, ("out", "final_state", "grad:query", "grad:key", "grad:value", "grad:beta", "grad:log_decay",
                "grad:initial_state")),
    )
    for dtype in ("float32", "bfloat16")
    for name in names
]  # fmt: skip


def visible(found: Example, name: str) -> tuple[int, ...]:
    """Returns the index of the element with the largest finite expected value."""
    expected = found.budgets[name].expected
    flat = int(expected.abs().nan_to_num(0.0, 0.0, 0.0).argmax().item())
    return tuple(int(axis.item()) for axis in torch.unravel_index(torch.tensor(flat), expected.shape))


def with_element(value: Tensor, place: tuple[int, ...], element: float) -> Tensor:
    changed = value.clone()
    changed[place] = element
    return changed


def moved(found: Example, name: str, tolerances: float) -> Tensor:
    """Returns a healthy value in which one element is off by so many tolerances."""
    budget, place = found.budgets[name], visible(found, name)
    element = budget.expected[place].item() + tolerances * budget.tolerance[place].item()
    return with_element(found.healthy()[name], place, element)


@pytest.mark.parametrize(("data", "dtype"), EXAMPLES)
def test_a_healthy_execution_passes(data: dict[str, Any], dtype: str) -> None:
    found = example(data, dtype)
    verdicts = {name: found.judge(name, value).verdict for name, value in found.healthy().items()}
    assert verdicts == dict.fromkeys(verdicts, Verdict.PASS)


@pytest.mark.parametrize(("data", "dtype", "name"), TENSORS)
def test_a_single_wrong_element_fails(data: dict[str, Any], dtype: str, name: str) -> None:
    found = example(data, dtype)
    assert found.judge(name, moved(found, name, 3.0)).verdict is Verdict.FAIL_NUMERIC


@pytest.mark.parametrize(("data", "dtype", "name"), TENSORS)
def test_the_worst_element_is_named_by_its_axes(data: dict[str, Any], dtype: str, name: str) -> None:
    found = example(data, dtype)
    item = found.judge(name, moved(found, name, 8.0))
    assert tuple(item.worst_index.values()) == visible(found, name)


def test_the_sentence_holds_place_values_bound_and_ratio() -> None:
    found = example(ATTENTION, "bfloat16")
    item = found.judge("grad:value", moved(found, "grad:value", 8.0))
    assert all(f"{axis}={index}" in item.reason for axis, index in item.worst_index.items())
    assert all(f"{word} " in item.reason for word in ("got", "expected", "bound", "ratio"))


@pytest.mark.parametrize("element", [torch.nan, torch.inf, -torch.inf], ids=["nan", "inf", "minus-inf"])
@pytest.mark.parametrize(("data", "dtype", "name"), TENSORS)
def test_a_single_element_that_is_not_finite_fails(
    data: dict[str, Any], dtype: str, name: str, element: float
) -> None:  # fmt: skip
    found = example(data, dtype)
    value = with_element(found.healthy()[name], visible(found, name), element)
    assert found.judge(name, value).verdict is Verdict.FAIL_NONFINITE


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda x: x[:-1], id="one-row-less"),
        pytest.param(lambda x: x[None], id="one-axis-more"),
        pytest.param(lambda x: x.flatten(), id="flat"),
        pytest.param(lambda x: x.transpose(0, 1), id="transposed"),
        pytest.param(lambda x: x[..., :0], id="empty"),
    ],
)
def test_another_shape_fails(change: Callable[[Tensor], Tensor]) -> None:
    found = example(ATTENTION, "bfloat16")
    assert found.judge("out", change(found.healthy()["out"])).verdict is Verdict.FAIL_SHAPE


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.int32], ids=str)
def test_another_dtype_fails(dtype: torch.dtype) -> None:
    found = example(ATTENTION, "bfloat16")
    assert found.judge("out", found.healthy()["out"].to(dtype)).verdict is Verdict.FAIL_DTYPE


def test_a_logsumexp_in_storage_dtype_fails() -> None:
    found = example(ATTENTION, "bfloat16")
    assert found.judge("lse", found.healthy()["lse"].bfloat16()).verdict is Verdict.FAIL_DTYPE


@pytest.mark.parametrize("name", ["out", "grad:query"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_one_head_that_is_five_percent_off_fails(dtype: str, name: str) -> None:
    found = example(ATTENTION, dtype)
    value = found.healthy()[name].clone()
    value[:, :, 1] *= 1.05
    assert found.judge(name, value).verdict is Verdict.FAIL_NUMERIC


@pytest.mark.parametrize("factor", [0.99, 1.01])
@pytest.mark.parametrize("name", ["out", "grad:query", "grad:key", "grad:value"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_gain_of_one_percent_fails(dtype: str, name: str, factor: float) -> None:
    found = example(ATTENTION, dtype)
    value = (found.budgets[name].expected * factor).to(found.healthy()[name].dtype)
    assert found.judge(name, value).verdict is Verdict.FAIL_NUMERIC


def test_a_gain_is_found_where_every_element_is_within_its_tolerance() -> None:
    whole = {**ATTENTION, "sinks": False, "key_mask": False, "window_right": None, "key_tokens": 130}
    found = example(whole, "float32")
    budget = found.budgets["out"]
    gain = 0.8 * (budget.tolerance / budget.expected.abs()).min().item()
    item = found.judge("out", (budget.expected * (1 + gain)).float())
    assert item.max_ratio is not None
    assert item.max_ratio < 1
    assert item.verdict is not Verdict.PASS
    (found_gain,) = (each for each in item.aggregates if each.name == "gain")
    assert found_gain.excess > 1


def test_truncation_instead_of_rounding_fails() -> None:
    found = example({**ATTENTION, "regime": "mean_shifted", "query_tokens": 64, "key_tokens": 130}, "bfloat16")
    exact = found.budgets["out"].expected.float()
    cut = (exact.view(torch.int32) & -(2**16)).view(torch.float32).bfloat16()
    assert found.judge("out", cut).verdict is Verdict.FAIL_NUMERIC


def test_errors_of_one_sign_fail() -> None:
    found = example(ATTENTION, "float32")
    budget = found.budgets["out"]
    item = found.judge("out", (budget.expected + 0.5 * budget.tolerance).float())
    assert item.verdict is Verdict.FAIL_NUMERIC
    assert "share a sign" in item.reason


@pytest.mark.parametrize(("data", "dtype"), EXAMPLES)
def test_zeros_fail_everywhere(data: dict[str, Any], dtype: str) -> None:
    found = example(data, dtype)
    for name, value in found.healthy().items():
        if name == "lse":
            continue  # where no key is visible it is infinite, which zeros are not: another verdict
        assert found.judge(name, torch.zeros_like(value)).verdict is Verdict.FAIL_NUMERIC, name


def test_a_value_that_is_not_expected_to_be_a_number_excuses_nothing() -> None:
    found = example(NORM, "float32")
    budget = found.budgets["out"]
    broken = dataclasses.replace(budget, expected=torch.full_like(budget.expected, torch.nan))
    item = dataclasses.replace(found, budgets={"out": broken}).judge("out", found.healthy()["out"])
    assert item.verdict is Verdict.FAIL_NONFINITE


def test_not_a_number_is_not_equal_to_itself() -> None:
    found = example(NORM, "float32")
    budget = found.budgets["out"]
    nothing = torch.full_like(budget.expected, torch.nan)
    broken = dataclasses.replace(found, budgets={"out": dataclasses.replace(budget, expected=nothing)})
    assert broken.judge("out", nothing.float()).verdict is Verdict.FAIL_NONFINITE


def hidden_rows() -> Example:
    """Returns an example in which some rows see no key at all."""
    return example({**ATTENTION, "sinks": False, "query_tokens": 40, "key_tokens": 33}, "bfloat16")


def test_a_logsumexp_of_nothing_is_expected_to_be_infinite() -> None:
    found = hidden_rows()
    lse = found.healthy()["lse"]
    assert bool(lse.isneginf().any())
    assert found.judge("lse", lse).verdict is Verdict.PASS


@pytest.mark.parametrize("element", [0.0, torch.nan, torch.inf, -1e30], ids=str)
def test_anything_else_in_place_of_an_infinity_fails(element: float) -> None:
    found = hidden_rows()
    lse = found.healthy()["lse"]
    assert found.judge("lse", torch.where(lse.isneginf(), element, lse)).verdict is Verdict.FAIL_NONFINITE


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_gradient_of_a_hidden_key_fails_however_small(dtype: str) -> None:
    found = example(ATTENTION, dtype)
    budget, value = found.budgets["grad:key"], found.healthy()["grad:key"]
    hidden = (budget.expected == 0) & (budget.samples == 0).all(0)
    place = tuple(int(axis) for axis in hidden.nonzero()[0])
    tiny = 2.0**-23 if dtype == "float16" else 2.0**-124
    assert found.judge("grad:key", with_element(value, place, tiny)).verdict is Verdict.FAIL_NUMERIC


def judged_by_a_poor_recipe(tolerances: float) -> Judgement:
    """Returns the judgement of a value so far off, where the recipe's own execution is two tolerances off."""
    found = example(NORM, "float32")
    budget = found.budgets["out"]
    off = dataclasses.replace(budget, nearest=2 * budget.tolerance[None])
    value = (budget.expected + tolerances * budget.tolerance).float()
    return dataclasses.replace(found, budgets={"out": off}).judge("out", value)


def test_a_recipe_that_is_outside_of_its_own_budget_has_no_power() -> None:
    item = judged_by_a_poor_recipe(1.5)
    assert item.verdict is Verdict.NO_POWER
    assert "round-to-nearest" in item.reason


def test_what_is_far_beyond_a_poor_recipe_fails() -> None:
    assert judged_by_a_poor_recipe(100.0).verdict is Verdict.FAIL_NUMERIC


@pytest.mark.parametrize(("tolerances", "verdict"), [(0.5, "PASS"), (1.12, "AMBIGUOUS"), (1.5, "FAIL_NUMERIC")])
def test_up_to_a_quarter_beyond_is_ambiguous(tolerances: float, verdict: str) -> None:
    found = example(ATTENTION, "float32")
    assert found.judge("grad:value", moved(found, "grad:value", tolerances)).verdict.value == verdict


def test_where_zeros_would_pass_there_is_no_power() -> None:
    found = example(NORM, "float16")
    budget = found.budgets["out"]
    tiny = dataclasses.replace(
        budget, expected=budget.expected * 2.0**-40, tolerance=torch.full_like(budget.tolerance, 2.0**-24)
    )
    item = dataclasses.replace(found, budgets={"out": tiny}).judge("out", torch.zeros_like(budget.expected).half())
    assert item.verdict is Verdict.NO_POWER
    assert "zeros" in item.reason


def test_a_gradient_that_never_came_fails() -> None:
    found = example(NORM, "float32")
    assert judge_missing("grad:x", found.budgets["grad:x"]).verdict is Verdict.FAIL_SHAPE


def test_a_gradient_that_never_came_is_legal_where_it_is_zero() -> None:
    budget = example(NORM, "float32").budgets["grad:x"]
    nothing = dataclasses.replace(budget, expected=torch.zeros_like(budget.expected))
    assert judge_missing("grad:x", nothing).verdict is Verdict.PASS


@pytest.mark.parametrize(("data", "dtype"), EXAMPLES)
def test_a_pass_says_what_it_would_have_caught(data: dict[str, Any], dtype: str) -> None:
    found = example(data, dtype)
    for name, value in found.healthy().items():
        item = found.judge(name, value)
        assert item.smallest_gain is not None
        assert item.smallest_element is not None


@pytest.mark.parametrize(("data", "dtype"), EXAMPLES)
def test_the_smallest_gain_that_is_claimed_is_caught(data: dict[str, Any], dtype: str) -> None:
    found = example(data, dtype)
    budget = found.budgets["out"]
    claimed = found.judge("out", found.healthy()["out"]).smallest_gain
    assert claimed is not None
    # Three times the claim: at the claim itself the own rounding of this execution decides.
    wrong = (budget.expected * (1 + 3 * claimed)).to(found.healthy()["out"].dtype)
    assert found.judge("out", wrong).verdict is Verdict.FAIL_NUMERIC
