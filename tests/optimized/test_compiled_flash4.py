"""What FlashAttention 4 becomes on a Hopper GPU, seen on any machine: CuTe compiles, cuobjdump comes with Triton."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.optimized.flash4_figures import SHARED_BYTES, report_violations

pytestmark = pytest.mark.slow

MATRIX_KERNELS = {"FlashAttentionForwardSm90", "FlashAttentionBackwardSm90"}


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    """Compiles the small list of cases in a process of its own, because the architecture is read once per process."""
    pytest.importorskip("flash_attn.cute", reason="FlashAttention 4, the package flash-attn-4, is not installed")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-m", "tests.optimized.compile_flash4", "--cases", "small"],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_forward_and_backward_pass_compile(records: list[dict[str, Any]]) -> None:
    assert MATRIX_KERNELS - {record["what"] for record in records} == set()


def test_no_kernel_spills_registers(records: list[dict[str, Any]]) -> None:
    spills = {(each["stack_bytes"], each["local_loads"], each["local_stores"]) for each in records}
    assert spills == {(0, 0, 0)}


def test_shared_memory_fits(records: list[dict[str, Any]]) -> None:
    assert max(record["dynamic_shared_bytes"] for record in records) <= SHARED_BYTES


def test_matrix_products_use_the_warp_group_instruction(records: list[dict[str, Any]]) -> None:
    kernels = [record for record in records if record["what"] in MATRIX_KERNELS]
    assert [each for each in kernels if each["threads"] < 128 or not each["warp_group_products"]] == []


@pytest.mark.parametrize(
    "planted", [{"stack_bytes": 8}, {"local_loads": 1}, {"local_stores": 1}, {"dynamic_shared_bytes": SHARED_BYTES + 1}]
)
def test_a_planted_violation_is_reported(planted: dict[str, int]) -> None:
    healthy = {"arch": "sm_90", "stack_bytes": 0, "local_loads": 0, "local_stores": 0, "dynamic_shared_bytes": 1}
    assert not report_violations([healthy])
    assert report_violations([healthy, healthy | planted])
