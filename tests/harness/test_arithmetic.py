"""What an emulator's arithmetic lets hardware do beside rounding."""

from typing import Any

import pytest
import torch

from harness.cases import case_from_data
from harness.emulators.arithmetic import Arithmetic
from harness.emulators.rounding import Directed, Identity, Nearest, Random, Rounding
from harness.inprocess import Here
from harness.records import Verdict
from harness.verify import Settings, verify
from optimized.candidate import Recipe
from tests.variants.healthy import CANDIDATES

TINY, SMALL, NORMAL = 2.0**-140, 2.0**-127, 2.0**-120


def flushed(rounding: Rounding, accumulator: str) -> torch.Tensor:
    """Returns by how much of itself each of three exponentials is off at most."""
    recipe = Recipe(storage=accumulator, operand=accumulator, accumulator=accumulator)
    value = torch.tensor([[TINY, SMALL, NORMAL]], dtype=torch.float64).expand(rounding.samples, 3)
    moved = Arithmetic(recipe, rounding).flushed("x", value)
    return ((moved - value) / value).abs().amax(0)


@pytest.mark.parametrize("rounding", [Random(64, 1), Directed()], ids=["random", "directed"])
def test_float32_may_lose_an_exponential_below_its_normal_numbers(rounding: Rounding) -> None:
    tiny, small, normal = flushed(rounding, "float32").tolist()
    # The largest of 64 uniform numbers is above 0.9 but once in 850.
    assert 0.9 < tiny <= 1
    assert 0.9 < small <= 1
    assert normal == 0


@pytest.mark.parametrize(
    ("rounding", "accumulator"), [(Random(64, 1), "float64"), (Nearest(), "float32"), (Identity(), "float32")]
)
def test_nothing_else_does(rounding: Rounding, accumulator: str) -> None:
    lost = flushed(rounding, accumulator)
    # To nearest, a float32 below the normal numbers keeps what its coarser steps hold: TINY and SMALL are such steps.
    assert not lost.any()


def test_what_is_flushed_in_one_execution_errs_alike() -> None:
    recipe = Recipe(storage="float32", operand="float32", accumulator="float32")
    value = torch.tensor([[TINY, SMALL]], dtype=torch.float64).expand(64, 2)
    error = (Arithmetic(recipe, Random(64, 1)).flushed("x", value) - value) / value
    assert error[:, 0].tolist() == error[:, 1].tolist()
    assert len(set(error[:, 0].tolist())) > 1


HARDLY_SEEN = {
    "op": "attention", "dtype": "float32", "regime": "negative", "seed": 861713986, "batch": 1, "query_tokens": 31,
    "key_tokens": 31, "key_heads": 1, "group": 1, "head_dim": 4, "value_dim": 4,
}  # fmt: skip
"""A key whose weight is below float32's normal numbers in every row; an H100 gives its gradient other digits."""

SEEN_BY_MANY = {
    "op": "flash_sdpa", "regime": "negative", "cotangent": "expanded", "batch": 2, "query_tokens": 74,
    "key_tokens": 74, "key_heads": 2, "group": 3, "head_dim": 72, "value_dim": 40, "is_causal": True,
    "window_size": 83, "key_mask": True,
}  # fmt: skip
"""Gradients that are sums of such weights over hundreds of rows: what is lost of them adds up."""


def verdict_of(name: str, case: dict[str, Any]) -> Verdict:
    candidate = next(item for item in CANDIDATES if item.name == name)
    with Here(candidate, "cpu") as worker:
        return verify(case_from_data(case), [candidate], worker, Settings(relations="none"))[0].verdict


def test_attention_that_flushes_is_healthy_and_was_called_faulty_before(monkeypatch: pytest.MonkeyPatch) -> None:
    assert verdict_of("flash-flushed-fp32", HARDLY_SEEN) is Verdict.PASS
    monkeypatch.setattr(Arithmetic, "flushed", lambda self, point, value: value)  # noqa: ARG005 - the model without it
    assert verdict_of("flash-flushed-fp32", HARDLY_SEEN) is Verdict.FAIL_NUMERIC


@pytest.mark.parametrize(
    ("name", "dtype", "seed"),
    [("flash-sdpa-flushed-bf16", "bfloat16", 1790592286), ("flash-sdpa-flushed-fp32", "float32", 464864243)],
)
def test_so_is_a_sum_of_what_it_flushes(monkeypatch: pytest.MonkeyPatch, name: str, dtype: str, seed: int) -> None:
    case = SEEN_BY_MANY | {"dtype": dtype, "seed": seed}
    assert verdict_of(name, case) is Verdict.PASS

    def each_by_itself(self: Arithmetic, point: str, value: torch.Tensor) -> torch.Tensor:
        small = torch.where((value > 0) & (value < 2.0**-126), value, 0.0)
        return value + (self.rounding.approximate(point, small, 1.0) - small)

    monkeypatch.setattr(Arithmetic, "flushed", each_by_itself)
    assert verdict_of(name, case) is Verdict.FAIL_NUMERIC
