"""The lines of ``python -m harness.gpu.benchmark`` as rows of the speed table, which know the ceiling of the device."""

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from harness.store import StoreWarning
from reports.explain import length_of, settings_summary
from reports.text import plain

__all__ = ["BENCHMARK", "benchmark_table", "has_benchmark"]

BENCHMARK = "benchmark.jsonl"


def has_benchmark(folder: Path) -> bool:
    """Returns whether a folder holds the lines of the GPU benchmark."""
    return (folder / BENCHMARK).is_file()


def benchmark_table(folder: Path, columns: list[str]) -> pd.DataFrame:
    """Returns a row per timed arm and phase, with these columns; beside the fastest other arm where there is one.

    A line that cannot be read is left out with a warning that names it.
    """
    rows: list[dict[str, Any]] = []
    for number, line in enumerate((folder / BENCHMARK).read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            rows.extend(_rows(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            told = f"{folder / BENCHMARK} line {number} left out: {type(error).__name__}: {plain(error, limit=200)}"
            warnings.warn(told, StoreWarning, stacklevel=2)
    return pd.DataFrame([[row.get(name) for name in columns] for row in rows], columns=columns)


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
