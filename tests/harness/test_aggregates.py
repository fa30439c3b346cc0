"""Slices, spread and lean: each turns red on the fault that it is for, while the tests beside it stay green."""

import pytest
import torch
from torch import Tensor

from harness.budget import _budget
from harness.records import Aggregate, Judgement, Verdict
from harness.spread import lean
from tests.harness.judging import ATTENTION, Example, example

WHOLE = {**ATTENTION, "sinks": False, "key_mask": False, "window_right": None, "query_tokens": 64, "key_tokens": 65}


def named(item: Judgement) -> dict[str, Aggregate]:
    """Returns the tests by kind: ``slice:head=1`` is ``slice:head``."""
    return {test.name.split("=")[0].split(" ")[0]: test for test in item.aggregates}


def beyond(item: Judgement) -> set[str]:
    return {name for name, test in named(item).items() if test.excess > 1}


def exact(found: Example, name: str) -> Tensor:
    return found.budgets[name].expected


def with_gain(found: Example, part: tuple[slice | int, ...], name: str) -> Tensor:
    """Returns the exact output with a part of it off by three times what the test of its slices grants, stored."""
    test = named(found.judge("out", found.healthy()["out"]))[name]
    value = exact(found, "out").clone()
    value[part] *= 1 + 3 * test.limit
    return value.to(found.healthy()["out"].dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_healthy_execution_is_within_every_test(dtype: str) -> None:
    found = example(WHOLE, dtype)
    for name, value in found.healthy().items():
        assert beyond(found.judge(name, value)) == set(), name


def test_one_head_that_is_off_is_named() -> None:
    found = example(WHOLE, "bfloat16")
    item = found.judge("out", with_gain(found, (slice(None), slice(None), 1), "slice:head"))
    assert "slice:head" in beyond(item)
    assert named(item)["slice:head"].name == "slice:head=1"
    assert item.max_ratio is not None
    assert item.max_ratio < 1


def test_the_last_tile_that_is_off_is_named() -> None:
    found = example(WHOLE, "bfloat16")
    item = found.judge("out", with_gain(found, (slice(None), slice(48, 64)), "slice:tokens"))
    assert named(item)["slice:tokens"].name == "slice:tokens 48 to 63"
    assert named(item)["slice:tokens"].excess > 1


def test_larger_errors_than_the_recipe_allows_spread() -> None:
    found = example(WHOLE, "float32")
    budget = found.budgets["out"]
    draw = torch.Generator().manual_seed(4)
    uniform = 2 * torch.rand(budget.sigma.shape, generator=draw, dtype=torch.float64) - 1
    noise = 5 * uniform * budget.sigma  # within 7 sigma everywhere, and eight times a legal mean square
    item = found.judge("out", (budget.expected + noise).float())
    assert beyond(item) == {"spread"}
    assert item.verdict is Verdict.FAIL_NUMERIC
    assert "larger than legal" in item.reason


def test_truncation_leans() -> None:
    found = example(WHOLE, "bfloat16")
    cut = (exact(found, "out").float().view(torch.int32) & -(2**16)).view(torch.float32).bfloat16()
    item = found.judge("out", cut)
    assert "lean" in beyond(item)
    assert named(item)["lean"].value < -0.5


def test_values_that_differ_in_sign_alone_lean_together_and_are_one_value_to_the_lean() -> None:
    tie = 1 + 2.0**-8  # between two neighbours of bfloat16: whatever error an execution has decides which is stored
    expected = torch.tensor([tie, -tie], dtype=torch.float64)
    samples = -1e-6 * expected.sign().expand(8, 2)
    budget = _budget(expected, expected + samples, expected[None], expected[None], "bfloat16", "float32")
    upwards = expected.sign() * (1 + 2.0**-7)
    found = lean(budget, upwards - expected)
    assert found is not None
    assert found.value == 2
    assert found.excess <= 1


def test_errors_that_the_last_store_does_not_decide_are_not_asked_for_their_sign() -> None:
    found = example(WHOLE, "float32")
    names = named(found.judge("grad:query", found.healthy()["grad:query"]))
    assert "lean" not in names


def test_a_function_that_errs_one_way_by_what_it_may_is_granted_to_the_gain() -> None:
    found = example(WHOLE, "float32")
    budget = found.budgets["lse"]
    item = found.judge("lse", (budget.expected + budget.directed[0]).float())
    assert "gain" not in beyond(item)
    assert item.verdict is Verdict.PASS
