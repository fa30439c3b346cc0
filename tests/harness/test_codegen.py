"""The survey of machine code: what it finds in kernels made for it, and what its gate lets through."""

import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import main
from harness.codegen.cases import codegen_cases, probe_of
from harness.codegen.gate import SHARED_BYTES_OF_HOPPER, unusual, violations
from harness.codegen.machine_code import MachineCode, read_machine_code
from harness.codegen.offline import check_arch
from harness.codegen.results import CompiledKernel, Examination
from harness.errors import TestbenchError, UsageError
from harness.ops import OPS

PLUGIN = Path(__file__).with_name("codegen_plugin.py")
CASE = '{"op":"silu_mul","batch":2,"tokens":64,"channels":512,"dtype":"bfloat16"}'
ATTENTION: Mapping[str, Any] = {
    "op": "attention", "dtype": "bfloat16", "batch": 1, "query_tokens": 8, "key_tokens": 8, "key_heads": 1, "group": 1,
    "head_dim": 64, "value_dim": 128,
}  # fmt: skip


@pytest.fixture(scope="module")
def surveyed(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """Surveys the plug-in once, and returns the exit code and the folder."""
    folder = tmp_path_factory.mktemp("codegen")
    command = ["codegen", "--plugin", str(PLUGIN), "--arch", "sm_90", "--case", CASE, "--jobs", "1"]
    return main([*command, "--out", str(folder)]), folder


@pytest.fixture(scope="module")
def examined(surveyed: tuple[int, Path]) -> dict[str, dict[str, Any]]:
    """Returns the examinations of the plug-in by candidate."""
    data = json.loads((surveyed[1] / "codegen.json").read_text(encoding="utf-8"))
    return {item["candidate"]: item for item in data["examinations"]}


def kernel(
    *,
    matrix_product: bool = False,
    num_warps: int = 4,
    shared_bytes: int = 0,
    divided_by_turns: int = 0,
    torn_scans: int = 0,
    **code: Any,
) -> CompiledKernel:
    """Returns a kernel that needs nothing, but for what is given."""
    nothing = MachineCode(
        function="f", registers=32, stack_bytes=0, static_shared_bytes=0, instructions=10, local_loads=0,
        local_stores=0, warp_group_products=0, warp_products=0, tensor_memory_products=0, wide_accesses=0,
        memory_accesses=0, bulk_copies=0,
    )  # fmt: skip
    return CompiledKernel(
        kernel="file.f", key="key", signature={}, constants={}, num_warps=num_warps, num_stages=1,
        shared_bytes=shared_bytes, matrix_product=matrix_product, code=replace(nothing, **code),
        divided_by_turns=divided_by_turns, torn_scans=torn_scans,
    )  # fmt: skip


def gate(*kernels: CompiledKernel, arch: str = "sm_90", **case: Any) -> list[str]:
    """Returns the violations of kernels that a case of attention came to."""
    item = Examination(
        op="attention", candidate="mine", arch=arch, case={**ATTENTION, **case}, status="ok", kernels=kernels
    )
    return [violation.sentence for violation in violations([item])]


def test_a_kernel_beyond_the_limits_ends_the_survey_with_exit_code_1(surveyed: tuple[int, Path]) -> None:
    assert surveyed[0] == 1


def test_survey_of_a_good_kernel_ends_with_exit_code_0(tmp_path: Path) -> None:
    command = [
        "codegen",
        "--plugin",
        str(PLUGIN),
        "--candidate",
        "good",
        "--arch",
        "sm_90",
        "--case",
        CASE,
        "--jobs",
        "1",
    ]
    assert main([*command, "--out", str(tmp_path)]) == 0


def test_planted_spill_is_counted(examined: dict[str, dict[str, Any]]) -> None:
    (found,) = examined["spilling"]["kernels"]
    assert min(found["code"][name] for name in ("stack_bytes", "local_loads", "local_stores")) > 0


def test_good_kernel_has_neither_stack_nor_local_accesses(examined: dict[str, dict[str, Any]]) -> None:
    (found,) = examined["good"]["kernels"]
    assert [found["code"][name] for name in ("stack_bytes", "local_loads", "local_stores")] == [0, 0, 0]


def test_shared_memory_of_a_launch_is_its_operands(examined: dict[str, dict[str, Any]]) -> None:
    (found,) = examined["too-large"]["kernels"]
    operands, bytes_of_bfloat16 = 2 * 64 * 1024, 2
    assert found["shared_bytes"] == operands * bytes_of_bfloat16 > SHARED_BYTES_OF_HOPPER


def test_matrix_product_of_hopper_is_the_warp_group_instruction(examined: dict[str, dict[str, Any]]) -> None:
    (found,) = examined["too-large"]["kernels"]
    assert found["matrix_product"]
    assert found["code"]["warp_group_products"] > 0


def test_planted_loop_that_divides_by_its_turns_is_counted(examined: dict[str, dict[str, Any]]) -> None:
    turns = {name: [kernel["divided_by_turns"] for kernel in item["kernels"]] for name, item in examined.items()}
    assert turns == {"good": [0], "spilling": [0], "too-large": [0], "broken": [], "divided": [1], "torn": [0]}


def test_planted_running_sum_beside_repeating_lanes_is_counted(examined: dict[str, dict[str, Any]]) -> None:
    scans = {name: [kernel["torn_scans"] for kernel in item["kernels"]] for name, item in examined.items()}
    assert scans == {"good": [0], "spilling": [0], "too-large": [0], "broken": [], "divided": [0], "torn": [1]}


def test_settings_of_a_launch_are_recorded(examined: dict[str, dict[str, Any]]) -> None:
    (found,) = examined["too-large"]["kernels"]
    assert (found["num_warps"], found["constants"]) == (16, {"M": 64, "K": 1024})


def test_kernel_that_does_not_compile_is_an_error_even_where_the_candidate_hides_it(
    examined: dict[str, dict[str, Any]],
) -> None:
    assert examined["broken"]["status"] == "error"
    assert "broken_kernel does not compile" in examined["broken"]["sentence"]


def test_candidate_without_a_kernel_is_left_out(examined: dict[str, dict[str, Any]]) -> None:
    assert set(examined) == {"good", "spilling", "too-large", "broken", "divided", "torn"}


def test_table_has_a_line_per_kernel(surveyed: tuple[int, Path]) -> None:
    with (surveyed[1] / "codegen.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["candidate"], row["kernel"]) for row in rows} == {
        ("good", "codegen_plugin.good_kernel"),
        ("spilling", "codegen_plugin.good_kernel"),
        ("too-large", "codegen_plugin.product_kernel"),
        ("divided", "codegen_plugin.divided_kernel"),
        ("torn", "codegen_plugin.torn_kernel"),
    }


def test_versions_of_the_compilers_are_recorded(surveyed: tuple[int, Path]) -> None:
    environment = json.loads((surveyed[1] / "codegen.json").read_text(encoding="utf-8"))["environment"]
    assert environment["versions"]["triton"]
    assert environment["assemblers"]["sm_90"]


def test_examinations_are_printed_as_lines_of_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["codegen", "--plugin", str(PLUGIN), "--candidate", "good", "--arch", "sm_100", "--case", CASE, "--json"]
    main([*command, "--jobs", "1", "--out", str(tmp_path)])
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["arch"] == "sm_100"


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        ({"stack_bytes": 8}, "spills: got 8 bytes of stack, 0 LDL, 0 STL"),
        ({"local_loads": 1}, "spills: got 0 bytes of stack, 1 LDL, 0 STL"),
        ({"local_stores": 1}, "spills: got 0 bytes of stack, 0 LDL, 1 STL"),
        ({"shared_bytes": SHARED_BYTES_OF_HOPPER + 1}, "does not fit: got 232449 bytes shared"),
        (
            {"matrix_product": True, "warp_products": 3},
            "has slow products: got 3 HMMA and 0 HGMMA with 4 warps",
        ),
        (
            {"matrix_product": True, "warp_products": 3, "num_warps": 2},
            "has slow products: got 3 HMMA and 0 HGMMA with 2 warps",
        ),
        ({"divided_by_turns": 1}, "divides by a loop's number of turns inside it: got 1 loops that do, expected 0"),
        ({"torn_scans": 4}, "beside lanes that repeat others: got 4 running sums that do, expected 0"),
    ],
    ids=["stack", "LDL", "STL", "shared", "HGMMA", "two-warps", "turns", "scans"],
)
def test_gate_closes(needs: dict[str, Any], words: str) -> None:
    (sentence,) = gate(kernel(**needs))
    assert words in sentence


@pytest.mark.parametrize(
    ("needs", "case"),
    [
        ({"shared_bytes": SHARED_BYTES_OF_HOPPER}, {}),
        ({"matrix_product": True, "warp_group_products": 1}, {}),
        ({"matrix_product": True, "warp_products": 3, "num_warps": 1}, {}),
        ({"matrix_product": True}, {"dtype": "float32"}),
        ({"matrix_product": True}, {"head_dim": 96}),
        ({"stack_bytes": 8}, {"arch": "sm_100"}),
    ],
    ids=["full-shared", "HGMMA", "one-warp", "float32", "width-96", "sm_100"],
)
def test_gate_stays_open(needs: dict[str, Any], case: dict[str, Any]) -> None:
    assert gate(kernel(**needs), **case) == []


def test_shared_memory_is_limited_on_every_architecture() -> None:
    (sentence,) = gate(kernel(shared_bytes=SHARED_BYTES_OF_HOPPER + 1), arch="sm_100")
    assert "does not fit" in sentence


@pytest.mark.parametrize(
    ("needs", "words"), [({"divided_by_turns": 1}, "divides by"), ({"torn_scans": 1}, "wrong in Triton 3.6")]
)
def test_what_is_wrong_is_so_on_every_architecture(needs: dict[str, Any], words: str) -> None:
    (sentence,) = gate(kernel(**needs), arch="sm_100")
    assert words in sentence


def test_one_kernel_of_many_cases_is_one_violation() -> None:
    assert len(gate(kernel(stack_bytes=8), kernel(stack_bytes=8))) == 1


@pytest.mark.parametrize("status", ["error", "crash", "timeout"])
def test_failed_examination_is_a_violation_on_every_architecture(status: str) -> None:
    item = Examination(op="attention", candidate="mine", arch="sm_100", case=ATTENTION, status=status, sentence="why")
    (violation,) = violations([item])
    assert violation.sentence == "mine on sm_100, why"


@pytest.mark.parametrize("op", OPS)
def test_case_of_a_violation_makes_the_same_case_again(op: str) -> None:
    for case in codegen_cases(OPS[op], "bfloat16"):
        assert type(case).from_data(unusual(case.to_data())) == case


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_operation_has_cases_in_every_format_of_kernels(op: str, dtype: str) -> None:
    assert {case.dtype for case in codegen_cases(OPS[op], dtype)} == {dtype}


@pytest.mark.parametrize("op", OPS)
def test_quick_cases_are_among_all_cases(op: str) -> None:
    assert set(codegen_cases(OPS[op], "bfloat16", quick=True)) <= set(codegen_cases(OPS[op], "bfloat16"))


@pytest.mark.parametrize("op", OPS)
def test_every_case_has_a_probe(op: str) -> None:
    for case in codegen_cases(OPS[op], "bfloat16"):
        probe_of(case)


def test_bytes_that_are_no_binary_are_refused() -> None:
    with pytest.raises(TestbenchError, match="cuobjdump"):
        read_machine_code(b"no cubin")


@pytest.mark.parametrize("arch", ["90", "sm_9", "sm_75", "gfx942"])
def test_unknown_architecture_is_refused(arch: str) -> None:
    with pytest.raises(UsageError, match="--arch: got"):
        check_arch(arch)
