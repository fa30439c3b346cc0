"""The lines of ``python -m harness.gpu.benchmark`` as rows of the speed table, which know the ceiling of the device."""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from harness.store import StoreWarning
from reports.explain import length_of, settings_summary
from reports.text import plain

__all__ = ["BENCHMARK", "Line", "benchmark_files", "benchmark_table", "not_timed", "read_benchmark"]

BENCHMARK = "benchmark.jsonl"

Line = Mapping[str, Any]


def benchmark_files(folder: Path) -> list[Path]:
    """Returns the files with lines of the GPU benchmark, of the folder and of the folders in it.

    ``attest bench --standard --device cuda`` and the steps of ``python -m harness.gpu`` make a folder per operation.
    """
    own = folder / BENCHMARK
    return [*([own] if own.is_file() else []), *sorted(folder.glob(f"*/{BENCHMARK}"))]


def read_benchmark(folder: Path) -> list[Line]:
    """Returns the lines of all of these files that are about an arm.

    A line that cannot be read is left out with a warning that names it.
    """
    lines: list[Line] = []
    for path in benchmark_files(folder):
        for number, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            try:
                line = json.loads(text)
                list(_rows(line))
                if line["arm"]:
                    lines.append(line)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                told = f"{path} line {number} left out: {type(error).__name__}: {plain(error, limit=200)}"
                warnings.warn(told, StoreWarning, stacklevel=2)
    return lines


def benchmark_table(lines: Sequence[Line], columns: list[str]) -> pd.DataFrame:
    """Returns a row per timed arm and phase, with these columns; beside the fastest other arm where there is one."""
    rows = [row for line in lines for row in _rows(line)]
    return pd.DataFrame([[row.get(name) for name in columns] for row in rows], columns=columns)


def not_timed(lines: Sequence[Line]) -> list[tuple[bool, str]]:
    """Returns who has no time and why, once each, and whether it is one of the project's own."""
    found = {
        f"{plain(line['arm'], limit=60)} on {plain(line['case']['op'], limit=60)} has no time: "
        f"{plain(line.get('verdict', ''), limit=60)} {plain(line['problem'], limit=200)}": bool(line.get("is_ours"))
        for line in lines
        if line.get("problem")
    }
    return [(is_ours, sentence) for sentence, is_ours in found.items()]


def _rows(line: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if line.get("median_us") is None:
        return
    case = line["case"]
    row = {
        "op": plain(case["op"]), "candidate": plain(line["arm"]), "dtype": plain(case["dtype"]),
        "phase": plain(line["phase"]), "shape": settings_summary(case, limit=400), "tokens": length_of(case),
        "median_us": float(line["median_us"]), "low_us": float(line["low_us"]), "high_us": float(line["high_us"]),
        "repeats": line["rounds"], "how": plain(line.get("how", "")), "noise": line.get("noise"),
        "floor_us": line["floor_us"], "share": line["share"],
    }  # fmt: skip
    others = {name: (float(ratio), float(low), float(high), verdict)
              for name, (ratio, low, high, verdict) in line["against"].items()}  # fmt: skip
    if others:
        # The fastest other arm is the one to which this one is slowest.
        name, (ratio, low, high, verdict) = max(others.items(), key=lambda item: item[1][0])
        row |= {"baseline": plain(name), "ratio": ratio, "ratio_low": low, "ratio_high": high}
        row["verdict"] = plain(verdict)
    yield row
