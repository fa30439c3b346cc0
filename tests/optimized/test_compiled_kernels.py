"""What the shipped kernels become on a Hopper GPU, seen on any machine: the quick part of ``attest codegen``."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import main
from optimized.catalogue import CANDIDATES

pytestmark = pytest.mark.slow  # minutes of compiling; the session "codegen" compiles all of it

TRITON = sorted(
    candidate.name
    for candidate in CANDIDATES
    if candidate.name.startswith("triton-") and candidate.recipe.storage in {"float32", "bfloat16"}
)


@pytest.fixture(scope="module")
def surveyed(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, list[dict[str, Any]]]:
    """Compiles the kernels of every candidate, and returns the exit code and the examinations."""
    folder: Path = tmp_path_factory.mktemp("codegen")
    code = main(["codegen", "--quick", "--arch", "sm_90", "--out", str(folder)])
    examinations: list[dict[str, Any]] = json.loads((folder / "codegen.json").read_text())["examinations"]
    return code, examinations


def test_no_kernel_spills_or_overflows_or_misses_the_warp_group_instruction(
    surveyed: tuple[int, list[dict[str, Any]]],
) -> None:
    assert surveyed[0] == 0, "the violations are in the captured output"


@pytest.mark.parametrize("name", TRITON)
def test_every_triton_candidate_has_compiled_kernels(surveyed: tuple[int, list[dict[str, Any]]], name: str) -> None:
    assert sum(len(item["kernels"]) for item in surveyed[1] if item["candidate"] == name) > 0


def test_no_triton_candidate_declines_a_shape_of_every_day(surveyed: tuple[int, list[dict[str, Any]]]) -> None:
    assert [
        (item["candidate"], item["sentence"])
        for item in surveyed[1]
        if item["candidate"] in TRITON and item["status"] != "ok"
    ] == []


def test_the_delta_rule_is_two_kernels_forward_and_five_backward(surveyed: tuple[int, list[dict[str, Any]]]) -> None:
    items = [item for item in surveyed[1] if item["candidate"] == "triton-delta-rule-bf16"]
    # The kernel that carries the state is launched in both passes, with another code in each.
    assert {kernel["kernel"] for item in items for kernel in item["kernels"]} == {
        "prepare.prepare_kernel",
        "carry_state.carry_state_kernel",
        "carry_cotangent.carry_cotangent_kernel",
        "pairs.pair_kernel",
        "query_gradient.query_gradient_kernel",
        "key_gradient.key_gradient_kernel",
    }
