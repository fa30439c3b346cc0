"""What the kernels become on a Hopper GPU, seen on any machine: ptxas and cuobjdump come with Triton."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ATTENTION_KERNELS = ("_forward_kernel", "key_value_gradient_kernel", "query_gradient_kernel")

SHARED_BYTES_OF_A_HOPPER_PROGRAM = 227 * 1024


@pytest.fixture(scope="module", params=[64, 128], ids=["D64", "D128"])
def kernels(request: pytest.FixtureRequest) -> dict[str, dict[str, int]]:
    """Compiles all kernels for one head width in a process of its own, which must not interpret."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-m", "tests.optimized.compile_for_hopper", str(request.param)],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return {record.pop("kernel"): record for record in map(json.loads, run.stdout.splitlines())}


def test_every_kernel_compiles(kernels: dict[str, dict[str, int]]) -> None:
    assert set(kernels) == {*ATTENTION_KERNELS, "_row_terms_kernel", "forward_kernel", "backward_kernel"}


def test_no_kernel_spills_registers(kernels: dict[str, dict[str, int]]) -> None:
    spills = {name: (needs["spills"], needs["stack_bytes"]) for name, needs in kernels.items()}
    assert set(spills.values()) == {(0, 0)}, spills


def test_shared_memory_fits(kernels: dict[str, dict[str, int]]) -> None:
    needs = {name: needs["shared_bytes"] for name, needs in kernels.items()}
    assert max(needs.values()) <= SHARED_BYTES_OF_A_HOPPER_PROGRAM, needs


@pytest.mark.parametrize("name", ATTENTION_KERNELS)
def test_matrix_products_use_the_warp_group_instruction(kernels: dict[str, dict[str, int]], name: str) -> None:
    assert kernels[name]["wgmma"] > 0
