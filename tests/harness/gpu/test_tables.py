"""The tables of a campaign say what its records say, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.gpu import tables


@pytest.fixture
def folder(rehearsed: tuple[Path, int]) -> Path:
    return rehearsed[0]


def of_kernel(line: dict[str, Any]) -> dict[str, Any]:
    return line | {"arm": line["arm"].replace("torch-", "triton-")}


def test_every_figure_of_a_rehearsal_is_one_of_its_records(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.loads(each) for each in (folder / "bench-silu_mul" / "benchmark.jsonl").read_text().splitlines()]
    for name in ("machine/machine.json", "smoke/records.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "bench-silu_mul").mkdir()
    written = [json.dumps(of_kernel(line)) for line in lines]
    (tmp_path / "bench-silu_mul" / "benchmark.jsonl").write_text("\n".join(written) + "\n", encoding="utf-8")
    assert tables.main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    machine = json.loads((folder / "machine" / "machine.json").read_text(encoding="utf-8"))
    assert f"{machine['ceilings']['copy_gb_s']:.0f} GB/s" in printed
    records = (folder / "smoke" / "records.jsonl").read_text(encoding="utf-8").splitlines()
    assert f"| rms_norm | bfloat16 | {len(records)} | {len(records)} |" in printed
    timed = [line for line in lines if "median_us" in line and line["arm"] == "torch-silu-mul-bf16"]
    assert timed
    for line in timed:
        assert f"| {line['phase']} | triton-silu-mul-bf16 | {line['median_us']:.0f} (" in printed


def test_an_attempt_that_was_put_aside_does_not_count(folder: Path, tmp_path: Path) -> None:
    for name in ("smoke", "smoke.1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "records.jsonl").write_bytes((folder / "smoke" / "records.jsonl").read_bytes())
    assert tables.verdict_table([tmp_path]) == tables.verdict_table([folder])


def test_an_arm_that_was_not_timed_is_told_with_its_reason(tmp_path: Path) -> None:
    line = {"case": {"op": "silu_mul"}, "arm": "peer", "phase": "", "problem": "no | such package", "is_ours": False}
    (tmp_path / "bench-silu_mul").mkdir()
    (tmp_path / "bench-silu_mul" / "benchmark.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    assert tables.unfinished([tmp_path]).endswith("| silu_mul | peer | verification | no / such package |")


def test_errors_are_the_largest_of_all_shapes(tmp_path: Path) -> None:
    lines = [
        {"case": {"op": "silu_mul"}, "arm": "peer", "verdict": verdict, "errors": {"out": out, "grad:x": x}}
        for verdict, out, x in (("PASS", 0.002, 0.3), ("BEYOND_OURS", 0.004, 0.2))
    ]  # fmt: skip
    (tmp_path / "bench-silu_mul").mkdir()
    text = "\n".join(map(json.dumps, lines)) + "\n"
    (tmp_path / "bench-silu_mul" / "benchmark.jsonl").write_text(text, encoding="utf-8")
    assert tables.error_table([tmp_path]).endswith("| silu_mul | peer | BEYOND_OURS, PASS | 4.0e-03 | 3.0e-01 (x) |")


def test_a_folder_without_a_campaign_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tables.main([str(tmp_path)]) == 2
    assert f"DIR: got {str(tmp_path)!r}" in capsys.readouterr().err
