"""``attest bench``: standard shapes are cases, being slower ends it with 1, a GPU has its own benchmark."""

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.bench.shapes import ON_CPU
from harness.candidates import find_candidates
from harness.cases import case_from_data
from harness.cli import bench
from harness.ops import OPS
from harness.records import Comparison, Timing
from harness.strategies import DTYPES
from harness.timing import BASELINE
from tests.reports.samples import record


def test_every_operation_has_standard_shapes_on_a_cpu_and_they_are_cases() -> None:
    cases = [case_from_data({"op": op, **fields}) for op, several in ON_CPU.items() for fields in several]
    assert {case.op for case in cases} == set(OPS)


@pytest.mark.parametrize(
    ("baseline", "verdict", "expected"),
    [("before", "SLOWER", True), ("before", "AMBIGUOUS", False), (BASELINE, "SLOWER", False)],
)
def test_slower_than_another_candidate_counts_and_slower_than_the_reference_is_told(
    baseline: str, verdict: str, *, expected: bool
) -> None:  # fmt: skip
    pair = Comparison(baseline=baseline, ratio=1.1, low=1.05, high=1.2, verdict=verdict)
    timing = Timing(
        phase="forward", median_us=1.0, low_us=1.0, high_us=1.0, repeats=21, threads=1, comparison=pair
    )  # fmt: skip
    assert bench._is_slower([record(timings=[timing])]) is expected


def test_a_baseline_has_to_pass_as_well_and_meets_cases_of_its_format_alone() -> None:
    found = find_candidates().candidates
    cases = [case_from_data({"op": "silu_mul", "dtype": dtype, **ON_CPU["silu_mul"][0]}) for dtype in DTYPES]
    before = found["torch-silu-mul-fp32"]
    items = bench._items(cases, [item for item in found.values() if item.op == "silu_mul"], before)
    assert [(item.case.dtype, item.candidates[-1]) for item in items] == [("float32", before.name)]
    assert before.name not in items[0].candidates[:-1]


def test_the_standard_shapes_of_a_gpu_are_timed_by_its_benchmark(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:  # fmt: skip
    called: list[Any] = []

    def run(command: list[str], *, check: bool) -> SimpleNamespace:
        called.append((command[1:], check))
        return SimpleNamespace(returncode=len(called) - 1)

    monkeypatch.setattr(subprocess, "run", run)
    assert bench._on_gpu(["rope", "silu_mul"], tmp_path, rounds=15) == 1
    assert [command[:6] for command, _ in called] == [
        ["-m", "harness.gpu.benchmark", "--op", op, "--device", "cuda"] for op in ("rope", "silu_mul")
    ]
