"""Kernels of several projects in one table: occupancy, sums per pass, what is not installed."""

import csv
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from harness.candidates import Found, find_candidates
from harness.cli import beside
from harness.cli.main import main
from harness.codegen.beside import SENTENCE, lines_of, occupancy, other_line, totals, write_beside
from harness.codegen.results import CompiledKernel, Examination
from tests.harness.test_codegen import kernel

CASE = {"op": "l2_norm", "batch": 2, "tokens": 10, "heads": 5, "width": 128}


def examined(*kernels: CompiledKernel) -> list[Examination]:
    return [Examination(op="l2_norm", candidate="mine", arch="sm_90", case=CASE, status="ok", kernels=kernels)]


def changed(base: CompiledKernel, **changes: object) -> CompiledKernel:
    return CompiledKernel.from_data({**asdict(base), **changes})


@pytest.mark.parametrize(
    ("registers", "warps", "shared_bytes", "share"),
    [(32, 4, 0, 1.0), (128, 4, 0, 0.25), (255, 8, 0, 0.125), (32, 4, 100 * 1024, 0.125), (32, 1, 0, 0.5)],
    ids=["full", "registers", "one program", "shared memory", "32 programs"],
)
def test_occupancy_is_what_the_scarcest_resource_leaves(
    registers: int, warps: int, shared_bytes: int, share: float
) -> None:
    assert occupancy(registers=registers, warps=warps, shared_bytes=shared_bytes) == share


def test_figures_are_per_token_and_head() -> None:
    (line,) = lines_of(examined(changed(kernel(instructions=30), programs=50, tensor_bytes=51_200)))
    assert (line.bytes, line.instructions) == (512, 30 * 4 * 50 / 100)


def test_a_setting_that_is_only_tried_spills_for_itself_and_is_no_launch() -> None:
    tried = changed(kernel(local_loads=2), launches=0, tensor_bytes=0)
    real = changed(kernel(), launches=2, tensor_bytes=1_000)
    (row,) = totals(lines_of(examined(real, tried)))
    assert (row["kernels"], row["bytes"], row["with spills"]) == (2, 10, "1 of 2")


def test_passes_are_told_apart() -> None:
    found = totals(lines_of(examined(kernel(), changed(kernel(), phase="backward"))))
    assert [row["phase"] for row in found] == ["forward", "backward"]


def test_kernels_that_triton_did_not_compile_are_read_from_their_lines() -> None:
    code = asdict(kernel(warp_group_products=3, warp_products=1).code)
    line = other_line({**code, "function": "FlashAttentionBackwardSm90", "arch": "sm_90", "threads": 384,
                       "version": "4.0", "dynamic_shared_bytes": 1024})  # fmt: skip
    assert line.candidate == "flash-attn-4 4.0"
    assert (line.phase, line.warps, line.hgmma_share, line.bytes) == ("backward", 12, 0.75, None)


def test_the_tables_say_what_they_are_evidence_of(tmp_path: Path) -> None:
    lines = lines_of(examined(kernel(), changed(kernel(), launches=0)))
    write_beside(tmp_path, lines, command="attest codegen --beside x.py", versions="triton 1", absent=["fla: gone"])
    text = (tmp_path / "beside.md").read_text(encoding="utf-8")
    assert all(words in text for words in (SENTENCE, "attest codegen --beside x.py", "triton 1", "fla: gone"))
    with (tmp_path / "beside.csv").open(encoding="utf-8") as file:
        assert [row["launches"] for row in csv.DictReader(file)] == ["1", "0"]


def test_a_project_that_is_not_there_is_unsupported_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plugin = tmp_path / "absent.py"
    plugin.write_text(
        "from optimized.candidate import Candidate, Recipe\n"
        "RECIPE = Recipe(storage='bfloat16', operand='float32', accumulator='float32')\n"
        "CANDIDATES = (Candidate(name='other-decay', op='log_sigmoid_decay', load=lambda: None, recipe=RECIPE,\n"
        "    supports=lambda *tensors, **options: 'other: not installed'),)\n"
    )
    asked = ["codegen", "--op", "log_sigmoid_decay", "--arch", "sm_90", "--jobs", "1"]
    assert main([*asked, "--beside", str(plugin), "--out", str(tmp_path / "out")]) == 0
    assert "other-decay on sm_90: UNSUPPORTED: other: not installed" in capsys.readouterr().out
    data = json.loads((tmp_path / "out" / "codegen.json").read_text(encoding="utf-8"))
    ours = next(item for item in data["examinations"] if item["candidate"].startswith("triton-"))
    elements = 2 * 1024 * 32
    forward = [item for item in ours["kernels"] if item["phase"] == "forward"]
    assert [item["tensor_bytes"] for item in forward] == [elements * (2 + 4)]  # bfloat16 read, float32 written


@pytest.mark.parametrize(
    ("found", "code", "words"),
    [
        (kernel(), 0, ""),
        (kernel(stack_bytes=8), 1, "missed: mine on sm_90, file.f spills: got 8 bytes of stack"),
        (changed(kernel(), launches=2), 1, "missed: mine on sm_90, forward: got 2 launches, expected <= 1"),
    ],
    ids=["good", "a spill", "a launch"],
)
def test_an_installed_kernel_that_misses_a_target_gives_exit_code_1(
    found: CompiledKernel, code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    case = {**CASE, "dtype": "bfloat16"}
    (item,) = [replace(each, case=case) for each in examined(found)]
    theirs = replace(item, candidate="fla-theirs", kernels=(kernel(stack_bytes=800),))
    monkeypatch.setattr(beside, "_examined", lambda plugin, *_: iter([item if plugin is None else theirs]))
    asked = ["codegen", "--op", "l2_norm", "--arch", "sm_90", "--beside", "theirs.py", "--out", str(tmp_path)]
    assert main(asked) == code
    printed = capsys.readouterr().out
    assert words in printed
    assert "missed: fla-theirs" not in printed


def test_a_spill_that_is_injected_trips_the_gate_of_the_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ours need not be compiled for it.
    monkeypatch.setattr(beside, "find_candidates", lambda plugin: find_candidates(plugin) if plugin else Found({}))
    baseline = str(tmp_path / "baseline.json")
    plugin = tmp_path / "peers.py"
    for function in ("good", "spilling"):
        plugin.write_text(
            f"from tests.harness.codegen_plugin import candidate, {function}\n"
            f"CANDIDATES = (candidate('peer-silu', {function}),)\n"
        )
        asked = ["codegen", "--op", "silu_mul", "--arch", "sm_90", "--jobs", "1", "--beside", str(plugin)]
        assert main([*asked, "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / function)]) == 0
    assert main(["gate", str(tmp_path / "good"), "--baseline", baseline, "--update"]) == 0
    assert main(["gate", str(tmp_path / "good"), "--baseline", baseline]) == 0
    capsys.readouterr()
    assert main(["gate", str(tmp_path / "spilling"), "--baseline", baseline]) == 1
    assert "peer-silu codegen_plugin.good_kernel sm_90 spills more" in capsys.readouterr().out


def test_a_file_of_other_lines_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text('{"a": 1}\n')
    asked = ["codegen", "--op", "flash_sdpa", "--beside", str(path), "--out", str(tmp_path / "out")]
    assert main(asked) == 2
    assert "tests.optimized.compile_flash4 printed" in capsys.readouterr().err
