"""A promise of the same bits: checked where it is given, kept by those who keep it, asked of nobody else."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from harness.cases import case_from_data
from harness.inprocess import Here
from harness.records import Record, Verdict
from harness.relations.check import SAME_BITS, chosen
from harness.verify import Settings, verify
from optimized.candidate import Candidate, Recipe
from optimized.catalogue import CANDIDATES
from optimized.eager.rms_norm import rms_norm

CASE: dict[str, Any] = {"op": "rms_norm", "dtype": "float32", "batch": 2, "tokens": 5, "channels": 24}
RECIPE = Recipe(storage="float32", operand="float32", accumulator="float32")
NEXT = 1 + 2.0**-23


def one_unit_more_every_other_time() -> Callable[..., Tensor]:
    turns = itertools.cycle((1.0, NEXT))
    return lambda *args, **options: rms_norm(*args, **options) * next(turns)


def backward_one_unit_more_every_other_time() -> Callable[..., Tensor]:
    turns = itertools.cycle((1.0, NEXT))

    def call(*args: Any, **options: Any) -> Tensor:
        out = rms_norm(*args, **options)
        if out.requires_grad:
            factor = next(turns)
            out.register_hook(lambda grad: grad * factor)  # type: ignore[no-untyped-call]  # torch types it so
        return out

    return call


def judged(load: Callable[[], Callable[..., Tensor]], *, deterministic: bool) -> Record:
    kept = load()
    candidate = Candidate(
        name="one", op="rms_norm", load=lambda: kept, recipe=RECIPE, deterministic=deterministic
    )  # fmt: skip
    with Here(candidate, "cpu") as worker:
        return verify(case_from_data(CASE), [candidate], worker, Settings(relations=SAME_BITS))[0]


@pytest.mark.parametrize("load", [one_unit_more_every_other_time, backward_one_unit_more_every_other_time])
def test_a_broken_promise_fails_and_the_same_bits_unpromised_pass(load: Callable[[], Callable[..., Tensor]]) -> None:
    record = judged(load, deterministic=True)
    assert record.verdict is Verdict.FAIL_RELATION
    assert "same_bits: the same call again gives other bits, which this candidate promises not to" in record.reason
    assert judged(load, deterministic=False).verdict is Verdict.PASS


def test_a_kept_promise_passes() -> None:
    record = judged(lambda: rms_norm, deterministic=True)
    assert [(item.name, item.verdict) for item in record.relations if item.name == SAME_BITS] == [
        (SAME_BITS, Verdict.PASS)
    ]


def test_a_quarter_of_the_cases_is_called_again_and_those_have_no_other_relation() -> None:
    cases = [case_from_data(CASE | {"seed": seed}) for seed in range(400)]
    promised = [chosen(case, "some", deterministic=True) for case in cases]
    plain = [chosen(case, "some") for case in cases]
    assert 60 < promised.count([SAME_BITS]) < 140
    assert all(one in (other, [SAME_BITS]) for one, other in zip(promised, plain, strict=True))
    assert not any(SAME_BITS in names for names in plain)


def test_our_kernels_promise_and_what_torch_multiplies_does_not() -> None:
    by_promise = {item.name: item.deterministic for item in CANDIDATES}
    assert by_promise["triton-attention-bf16"]
    assert by_promise["triton-delta-rule-fp32"]
    assert not by_promise["triton-gated-delta-net-bf16"]
    assert not by_promise["torch-attention-bf16"]
