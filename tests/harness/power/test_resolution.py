"""Planted errors: what is planted, and the smallest of them that is caught."""

import math
from dataclasses import replace

import pytest

from harness.cases import case_from_data
from harness.power.resolution import LADDER, SHAPES, Doses, resolution_cases, resolve, smallest_doses
from harness.records import Judgement, Verdict

SMALL = case_from_data({"op": "rms_norm", "batch": 1, "tokens": 8, "channels": 32, "seed": 3})
ATTENTION = case_from_data({
    "op": "attention", "batch": 1, "query_tokens": 8, "key_tokens": 8, "key_heads": 1, "group": 1, "head_dim": 8,
    "value_dim": 8, "window_right": 0, "seed": 3,
})  # fmt: skip


def test_a_gain_is_seen_far_below_a_single_element() -> None:
    doses = smallest_doses(replace(SMALL, dtype="bfloat16")).smallest
    assert doses["gain"] < doses["element"] < 1


def test_float32_resolves_what_bfloat16_hides() -> None:
    assert (
        smallest_doses(SMALL).smallest["gain"] < smallest_doses(replace(SMALL, dtype="bfloat16")).smallest["gain"] / 100
    )


def test_there_is_a_key_where_there_are_keys() -> None:
    assert set(smallest_doses(ATTENTION).smallest) == {"gain", "element", "key"}


def test_a_single_key_s_weight_does_nothing_and_is_left_out() -> None:
    assert set(smallest_doses(ATTENTION.replaced(query_tokens=1, key_tokens=1)).smallest) == {"gain", "element"}


def dosed(dose: float) -> Doses:
    legal = Judgement(output="out", verdict=Verdict.PASS, max_ratio=0.5)
    return Doses(case=SMALL, smallest={"gain": dose}, legal=legal)


def test_a_campaign_resolves_a_smaller_gain_than_a_case() -> None:
    found = [smallest_doses(replace(SMALL, dtype="bfloat16", seed=seed)) for seed in range(6)]
    doses = {item.kind: item.dose for item in resolve(found)}
    assert doses["gain"] is not None
    assert doses["pooled gain"] is not None
    assert 0 < doses["pooled gain"] < doses["gain"]


def test_the_resolution_is_what_19_of_20_cases_catch() -> None:
    found = [dosed(dose) for dose in (*LADDER[:19], math.inf)]
    (only,) = resolve(found)
    assert (only.dose, only.median, only.cases) == (LADDER[18], LADDER[9], 20)


def test_there_is_no_resolution_where_too_few_cases_catch_anything() -> None:
    found = [dosed(dose) for dose in (*LADDER[:18], math.inf, math.inf)]
    assert resolve(found)[0].dose is None


@pytest.mark.parametrize("ops", [("rms_norm",), ("rms_norm", "attention"), ()])
def test_doses_are_planted_into_every_operation_that_is_asked_for(ops: tuple[str, ...]) -> None:
    assert {case.op for case in resolution_cases(dict.fromkeys(SHAPES, 2), ops)} == set(ops)
