"""Targets of the installed kernels: met by one pass, missed by one launch or copy more."""

from typing import Any

import pytest

from harness.codegen.results import CompiledKernel, Examination
from harness.codegen.targets import TARGETS, missed
from harness.ops import OPS
from tests.harness.test_beside import changed
from tests.harness.test_codegen import kernel

SILU: dict[str, Any] = {"op": "silu_mul", "dtype": "bfloat16", "batch": 2, "tokens": 8, "channels": 64}
RULE: dict[str, Any] = {
    "op": "gated_delta_rule", "dtype": "bfloat16", "batch": 1, "tokens": 8, "key_heads": 2, "group": 1, "key_dim": 16,
    "value_dim": 16,
}  # fmt: skip
ELEMENTS = 2 * 8 * 64
READ_AND_WRITTEN = 3 * 2 * ELEMENTS
"""Two inputs and an output of bfloat16."""


def sentences(case: dict[str, Any], *kernels: CompiledKernel) -> list[str]:
    return missed([Examination(op=case["op"], candidate="c", arch="sm_90", case=case, status="ok", kernels=kernels)])


def launched(*, launches: int = 1, tensor_bytes: int = 0, phase: str = "forward") -> CompiledKernel:
    return changed(kernel(), launches=launches, tensor_bytes=tensor_bytes, phase=phase)


def test_one_read_and_one_write_is_the_target() -> None:
    assert sentences(SILU, launched(tensor_bytes=READ_AND_WRITTEN)) == []


@pytest.mark.parametrize(
    ("case", "found", "words"),
    [
        (SILU, launched(tensor_bytes=READ_AND_WRITTEN + 2 * ELEMENTS), "got 512 bytes per token and head, the least"),
        (SILU, launched(launches=2, tensor_bytes=READ_AND_WRITTEN), "got 2 launches, expected <= 1"),
        (RULE, launched(launches=4), "forward: got 4 launches, expected <= 3"),
        (RULE, launched(tensor_bytes=2401 * 16), "got 2,401 bytes per token and head, expected <= 2,400"),
        (RULE, launched(launches=6, phase="backward"), "backward: got 6 launches, expected <= 5"),
    ],
    ids=["a copy", "a launch", "rule, launches", "rule, bytes", "rule, backward"],
)
def test_what_is_more_misses_it(case: dict[str, Any], found: CompiledKernel, words: str) -> None:
    (sentence,) = sentences(case, found)
    assert sentence.startswith("c on sm_90, ")
    assert words in sentence


def test_targets_are_of_operations() -> None:
    assert TARGETS.keys() <= OPS.keys()
