"""Faults that testbenches really had (B090 to B099 of the catalogue), planted into ours: a self-check turns red."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import harness.judge
import harness.layouts
import harness.verify
from harness.budget import Budget
from harness.operations.rms_norm import RmsNormCase
from harness.ops import OPS
from harness.poison import Canaries
from harness.records import Judgement, Verdict
from tests.harness import self_checks
from tests.harness.self_checks import (
    every_tensor_is_judged,
    inputs_and_cotangents_are_watched,
    inputs_tell_dumb_outputs,
    layouts_share_cotangents,
    no_storage_is_shared,
    one_element_is_enough,
    one_key_is_judged_fairly,
    one_row_is_seen,
    regimes_show_their_fault,
    the_candidate_runs_first,
    the_reference_is_certified,
    the_reference_is_written_twice,
    unwritten_memory_is_seen,
)

Check = Callable[[], list[str]]
Change = Callable[[str, Tensor, Budget], tuple[Tensor, Budget]]

JUDGE = harness.judge.judge


@dataclass(frozen=True, slots=True, kw_only=True)
class Plant:
    """A fault of the testbench: how it is planted, and the self-check that must see it."""

    name: str
    check: Check
    seed: Callable[[pytest.MonkeyPatch], None]


def set_judge(patch: pytest.MonkeyPatch, judge: Callable[..., Judgement]) -> None:
    """Replaces the judge wherever a self-check calls it."""
    patch.setattr("harness.verify.judge", judge)
    patch.setattr("tests.harness.judging.judge", judge)


def judging(change: Change) -> Callable[[pytest.MonkeyPatch], None]:
    """Returns what plants a judge that looks at another value, or by another budget."""

    def judge(row: Any, name: str, actual: Tensor, budget: Budget, *rest: Any) -> Judgement:
        return JUDGE(row, name, *change(name, actual, budget), *rest)

    return lambda patch: set_judge(patch, judge)


def gated_by_the_keys_error(patch: pytest.MonkeyPatch) -> None:
    """The check of the values' gradient looks at the keys' (the arguments were copied)."""
    seen: dict[str, Any] = {}

    def judge(row: Any, name: str, *arguments: Any) -> Judgement:
        seen[name] = arguments
        return JUDGE(row, name, *(seen["grad:key"] if name == "grad:value" else arguments))

    set_judge(patch, judge)


def against_itself(name: str, actual: Tensor, budget: Budget) -> tuple[Tensor, Budget]:
    return (budget.expected.to(actual.dtype), budget) if name == "grad:value" else (actual, budget)


def more_than_one_needed(name: str, actual: Tensor, budget: Budget) -> tuple[Tensor, Budget]:  # noqa: ARG001
    off = ~((actual.double() - budget.expected).abs() <= budget.tolerance)
    return (torch.where(off, budget.expected.to(actual.dtype), actual), budget) if off.sum() == 1 else (actual, budget)


def nan_ignored(name: str, actual: Tensor, budget: Budget) -> tuple[Tensor, Budget]:  # noqa: ARG001
    return torch.where(actual.isnan(), budget.expected.to(actual.dtype), actual), budget


def nan_as_wildcard(name: str, actual: Tensor, budget: Budget) -> tuple[Tensor, Budget]:  # noqa: ARG001
    known = torch.where(budget.expected.isnan(), actual.double(), budget.expected)
    return actual, dataclasses.replace(budget, expected=known)


def collapsed(name: str, actual: Tensor, budget: Budget) -> tuple[Tensor, Budget]:  # noqa: ARG001
    return actual, dataclasses.replace(budget, tolerance=2 * budget.nearest.abs().amax(0))


def exploded(name: str, actual: Tensor, budget: Budget) -> tuple[Tensor, Budget]:  # noqa: ARG001
    parts = ("tolerance", "sigma", "samples", "nearest", "directed")
    return actual, dataclasses.replace(budget, **{part: 1e6 * getattr(budget, part) for part in parts})


def by_one_number(size: Callable[[Tensor], Tensor], limit: float) -> Callable[[pytest.MonkeyPatch], None]:
    """Returns what plants a rule that holds one number of all errors against the same number of the expected tensor."""

    def judge(row: Any, name: str, actual: Tensor, budget: Budget, *rest: Any) -> Judgement:
        expected = budget.expected.nan_to_num(0.0, 0.0, 0.0)
        if size((actual.double() - expected).nan_to_num(0.0, 0.0, 0.0)) <= limit * size(expected):
            return Judgement(output=name, verdict=Verdict.PASS, max_ratio=0.0, elements=actual.numel())
        return JUDGE(row, name, actual, budget, *rest)

    return lambda patch: set_judge(patch, judge)


def largest(value: Tensor) -> Tensor:
    return value.abs().max()


def root_mean_square(value: Tensor) -> Tensor:
    return value.square().mean().sqrt()


def values_like_keys(patch: pytest.MonkeyPatch) -> None:
    """Keys and values are the same tensor in every case."""
    real = OPS["attention"].inputs

    def made(case: Any) -> Any:
        inputs = real(case)
        tensors = {**inputs.tensors, "value": inputs.tensors["key"].clone()}
        return dataclasses.replace(inputs, tensors=tensors)

    replace_row(patch, "attention", inputs=made)


def values_all_alike(patch: pytest.MonkeyPatch) -> None:
    """Every token has the same values, so that every average of them is right."""
    real = OPS["attention"].inputs

    def made(case: Any) -> Any:
        inputs = real(case)
        value = inputs.tensors["value"]
        return dataclasses.replace(inputs, tensors={**inputs.tensors, "value": value[:, :1].expand_as(value).clone()})

    replace_row(patch, "attention", inputs=made)


def replace_row(patch: pytest.MonkeyPatch, op: str, **fields: Any) -> None:
    """Plants another row of the table of operations."""
    patch.setattr("harness.ops.OPS", {**OPS, op: dataclasses.replace(OPS[op], **fields)})
    patch.setattr(self_checks, "OPS", {**OPS, op: dataclasses.replace(OPS[op], **fields)})


def wrong_reference(op: str, change: Callable[..., Any]) -> Callable[[pytest.MonkeyPatch], None]:
    """Returns what plants a reference that is changed around the right one."""
    right = OPS[op].reference
    return lambda patch: replace_row(patch, op, reference=lambda *args, **options: change(right, *args, **options))


def decays_over_heads(right: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """The running sum of the log decays goes over the heads instead of the tokens."""
    query, key, value, log_decay, *rest = args
    return right(query, key, value, log_decay.cumsum(2), *rest, **options)


def base_two_lse(right: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """The logarithm of the sum is to base two."""
    result = right(*args, **options)
    return result._replace(lse=result.lse * math.log2(math.e))


def filled_in_storage_order(value: Tensor, layout: str) -> Tensor:
    """Random numbers are drawn into each layout's own memory."""
    made = torch.empty_like(harness.layouts.lay_out(value, layout))
    flat = torch.randn(made.numel(), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(made.dtype)
    return made.as_strided((made.numel(),), (1,)).copy_(flat).as_strided(made.shape, made.stride())


class Eager(harness.verify.Shared):
    """What the candidates of a case share, with the reference computed before any of them runs."""

    def __init__(self, case: Any) -> None:
        super().__init__(case)
        self.expected(("out",), with_gradients=True)


@contextlib.contextmanager
def not_poisoned() -> Iterator[Canaries]:
    yield Canaries()


def setting(place: str, value: object) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setattr(place, value)


def only_leaves(call: Any) -> Mapping[str, bytes]:
    return {name: item.detach().numpy().tobytes() for name, item in call.leaves.items()}


def attention_twice() -> list[str]:
    return the_reference_is_written_twice("attention")


def rule_twice() -> list[str]:
    return the_reference_is_written_twice("gated_delta_rule")


def attention_certified() -> list[str]:
    return the_reference_is_certified("attention")


PLANTS = (
    Plant(name="B090-gated-by-the-error-of-the-keys", check=every_tensor_is_judged, seed=gated_by_the_keys_error),
    Plant(name="B090-compared-with-itself", check=every_tensor_is_judged, seed=judging(against_itself)),
    Plant(name="B091-more-than-one-needed", check=one_element_is_enough, seed=judging(more_than_one_needed)),
    Plant(name="B091-nan-ignored", check=one_element_is_enough, seed=judging(nan_ignored)),
    Plant(name="B091-expected-nan-as-wildcard", check=one_element_is_enough, seed=judging(nan_as_wildcard)),
    Plant(name="B092-cotangents-unwatched", check=inputs_and_cotangents_are_watched,
          seed=setting("harness.worker.Call.bits", only_leaves)),
    Plant(name="B092-memory-shared", check=no_storage_is_shared,
          seed=setting("harness.call.lay_out", lambda value, _: value)),
    Plant(name="B093-bound-by-the-largest-element", check=one_row_is_seen, seed=by_one_number(largest, 0.05)),
    Plant(name="B093-whole-tensor-rule", check=one_row_is_seen, seed=by_one_number(root_mean_square, 0.01)),
    Plant(name="B094-bound-collapses", check=one_key_is_judged_fairly, seed=judging(collapsed)),
    Plant(name="B094-bound-explodes", check=one_key_is_judged_fairly, seed=judging(exploded)),
    Plant(name="B095-values-are-keys", check=inputs_tell_dumb_outputs, seed=values_like_keys),
    Plant(name="B095-values-all-alike", check=inputs_tell_dumb_outputs, seed=values_all_alike),
    Plant(name="B096-one-regime-left", check=regimes_show_their_fault,
          seed=lambda patch: patch.setattr(RmsNormCase, "regimes", ("normal",))),
    Plant(name="B097-filled-in-storage-order", check=layouts_share_cotangents,
          seed=setting("harness.call.lay_out", filled_in_storage_order)),
    Plant(name="B098-sum-over-heads", check=rule_twice, seed=wrong_reference("gated_delta_rule", decays_over_heads)),
    Plant(name="B098-base-two-lse", check=attention_twice, seed=wrong_reference("attention", base_two_lse)),
    Plant(name="B098-base-two-lse-certified", check=attention_certified,
          seed=wrong_reference("attention", base_two_lse)),
    Plant(name="B099-no-poison", check=unwritten_memory_is_seen,
          seed=setting("harness.worker.poisoned", not_poisoned)),
    Plant(name="B099-reference-first", check=the_candidate_runs_first, seed=setting("harness.verify.Shared", Eager)),
)  # fmt: skip


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_a_fault_of_the_testbench_turns_its_self_check_red(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    if plant.check is attention_certified and not self_checks.can_certify():
        pytest.skip("ball arithmetic (python-flint) is not installed")
    assert plant.check() == []
    plant.seed(monkeypatch)
    assert plant.check() != []
