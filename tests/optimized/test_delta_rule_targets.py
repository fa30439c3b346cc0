"""What the delta rule's kernels may be on Hopper, compiled without a GPU: passes, bytes, spills, shared memory."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import main
from harness.codegen.gate import SHARED_BYTES_OF_HOPPER
from optimized.kernels.delta_rule.traffic import TrafficShape, forward_traffic

pytestmark = pytest.mark.slow  # a minute of compiling

TOKENS, HEADS = 512, 32
MOST_FORWARD_KERNELS, MOST_BACKWARD_KERNELS, MOST_FORWARD_BYTES = 3, 5, 2400


@pytest.fixture(scope="module", params=[128, 256])
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, list[Any]]:
    """Compiles one call, forward and backward, and returns the width and the kernels."""
    width = request.param
    case = {
        "op": "gated_delta_rule", "dtype": "bfloat16", "batch": 1, "tokens": TOKENS, "key_heads": HEADS, "group": 1,
        "key_dim": width, "value_dim": width, "normalize_qk": True,
    }  # fmt: skip
    folder: Path = tmp_path_factory.mktemp("codegen")
    asked = ["--candidate", "triton-delta-rule-bf16", "--arch", "sm_90", "--case", json.dumps(case)]
    main(["codegen", *asked, "--jobs", "1", "--out", str(folder)])
    (item,) = json.loads((folder / "codegen.json").read_text())["examinations"]
    return width, item["kernels"]


def of_phase(kernels: list[Any], phase: str) -> list[Any]:
    return [kernel for kernel in kernels if kernel["phase"] == phase]


def launches(kernels: list[Any], phase: str) -> int:
    return sum(int(kernel["launches"]) for kernel in of_phase(kernels, phase))


def test_forward_is_at_most_three_kernels_and_backward_at_most_five(compiled: tuple[int, list[Any]]) -> None:
    assert 0 < launches(compiled[1], "forward") <= MOST_FORWARD_KERNELS
    assert 0 < launches(compiled[1], "backward") <= MOST_BACKWARD_KERNELS


def test_nothing_spills_and_everything_fits_into_shared_memory(compiled: tuple[int, list[Any]]) -> None:
    width, kernels = compiled
    spilled = {k["kernel"]: k["code"] for k in kernels if k["code"]["stack_bytes"] or k["code"]["local_loads"]}
    assert width != 128 or spilled == {}  # at 256 the limit is that it fits
    assert max(kernel["shared_bytes"] for kernel in kernels) <= SHARED_BYTES_OF_HOPPER


@pytest.mark.parametrize("compiled", [128], indirect=True)
def test_the_tensors_of_the_launches_are_those_of_the_traffic_model(compiled: tuple[int, list[Any]]) -> None:
    shape = TrafficShape(head_width=128, value_width=128, chunk_size=64, gate_bytes=2)
    moved = sum(kernel["tensor_bytes"] for kernel in of_phase(compiled[1], "forward")) / (TOKENS * HEADS)
    final_state = 4 * 128 * 128 / TOKENS
    assert moved - final_state == sum(item.total for item in forward_traffic(shape)) <= MOST_FORWARD_BYTES
