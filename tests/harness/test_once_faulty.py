"""Healthy kernels that were called faulty, each with the part of the model that it needs: without it, it is again."""

from collections.abc import Callable
from typing import Any

import pytest

from harness.cases import case_from_data
from harness.emulators import attention, delta_rule_gate, gated_delta_rule, rounding
from harness.emulators.arithmetic import Arithmetic
from harness.emulators.rounding import FORMAT_BITS, Random
from harness.inprocess import Here
from harness.records import Verdict
from harness.verify import Settings, verify
from tests.variants.healthy import CANDIDATES

RULE = {"op": "gated_delta_rule", "batch": 1, "key_heads": 1, "group": 1, "key_dim": 4, "value_dim": 4}


def without_pairs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Random, "_of_pairs", lambda self, point, steps, sized: steps)  # noqa: ARG005 - the model without it


def without_other_chunks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(delta_rule_gate, "_starts_anywhere", lambda arithmetic: False)  # noqa: ARG005 - the same


def without_sides(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gated_delta_rule, "on_the_sides", lambda arithmetic, point, gate, query, keys: (gate, query, keys))  # noqa: ARG005 - the same


def without_long_chunks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gated_delta_rule, "MAX_CHUNK", 64)


def without_scores_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(attention, "_again_from_scores", lambda saved, weights: weights)  # noqa: ARG005 - the same


def without_alike(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rounding, "_BEYOND", FORMAT_BITS["float32"][0])  # all bits of float32 tell values apart


def without_flushes_forward(patch: pytest.MonkeyPatch) -> None:
    flushed = Arithmetic.flushed
    patch.setattr(
        Arithmetic, "flushed", lambda self, point, value: value if point == "weights" else flushed(self, point, value)
    )


ONCE_FAULTY: dict[str, tuple[str, dict[str, Any], Callable[[pytest.MonkeyPatch], None]]] = {
    "a sum of opposite pairs that comes out as a rounding error": (
        "rms-norm-running-mean-bf16",
        {
            "op": "rms_norm", "dtype": "bfloat16", "regime": "two_valued", "cotangent": "power_of_two",
            "seed": 981567884, "batch": 2, "tokens": 7, "channels": 27, "zero_centered": True,
        },
        without_pairs,
    ),
    "a difference of large sums of log decays in a chunk of 48 tokens": (
        "wy-48-wide-fp16",
        {
            **RULE, "dtype": "float16", "regime": "wide", "cotangent": "power_of_two", "seed": 1147511746, "batch": 2,
            "tokens": 65, "key_heads": 2, "group": 2, "normalize_qk": True,
        },
        without_other_chunks,
    ),
    "a gate's gradient as a difference of sums over channels": (
        "wy-64-wide-sides-fp32", {**RULE, "dtype": "float32", "seed": 1122577614, "tokens": 1}, without_sides,
    ),
    "scores of -77000 that the backward pass adds up in another order": (
        "flash-turned-fp16",
        {
            "op": "attention", "dtype": "float16", "layout": "fused", "regime": "negative", "seed": 1617383718,
            "batch": 1, "query_tokens": 32, "key_tokens": 32, "key_heads": 2, "group": 3, "head_dim": 96,
            "value_dim": 96, "window_left": 148, "window_right": 0, "key_mask": True, "scale": 1.0,
        },
        without_scores_again,
    ),
    "keys that are all alike, in chunks of 128 tokens": (
        "wy-128-bf16",
        {
            **RULE, "dtype": "bfloat16", "regime": "parallel_keys", "seed": 625954275, "tokens": 70, "group": 3,
            "key_dim": 64, "value_dim": 64, "log_decay": False, "initial_state": True, "normalize_qk": True,
            "sequence_lengths": [0, 70, 0],
        },
        without_long_chunks,
    ),
    "weights of most rows that are 1/n but for their last bits, and round alike once they are normalised": (
        "flash-two-pass-fp16",
        {
            "op": "attention", "dtype": "float16", "regime": "equal", "cotangent": "power_of_two", "seed": 2061646605,
            "batch": 2, "query_tokens": 63, "key_tokens": 63, "key_heads": 2, "group": 2, "head_dim": 80,
            "value_dim": 96, "sinks": True, "key_mask": True, "scale": 1.0,
        },
        without_alike,
    ),
    "a row whose only key is so far below the sink that its exponential is flushed": (
        "flash-sdpa-flushed-fp32",
        {
            "op": "flash_sdpa", "dtype": "float32", "layout": "fused", "regime": "massive", "seed": 1295026624,
            "batch": 1, "query_tokens": 53, "key_tokens": 53, "key_heads": 2, "group": 2, "head_dim": 32,
            "value_dim": 32, "is_causal": True, "window_size": 1, "sinks": True,
        },
        without_flushes_forward,
    ),
}  # fmt: skip


def verdict(name: str, fields: dict[str, Any]) -> Verdict:
    candidate = next(item for item in CANDIDATES if item.name == name)
    with Here(candidate, "cpu") as worker:
        return verify(case_from_data(fields), [candidate], worker, Settings(relations="none"))[0].verdict


@pytest.mark.parametrize("what", ONCE_FAULTY)
def test_it_passes_and_fails_without_what_it_needs(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, fields, plant = ONCE_FAULTY[what]
    assert verdict(name, fields) is Verdict.PASS
    plant(monkeypatch)
    assert verdict(name, fields) is Verdict.FAIL_NUMERIC
