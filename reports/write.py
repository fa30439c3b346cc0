"""A folder's report: one page, the tables behind it as CSV, a summary in Markdown and JUnit XML."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from harness.errors import TestbenchError, UsageError
from harness.pool import Pooled, pooled
from harness.power_results import PowerResults, has_power, read_power
from harness.records import Certificate, Record
from harness.store import RECORDS, has_records, read_certificates, read_records, read_run
from reports.benchmark import BENCHMARK, Line, benchmark_files, benchmark_table, read_benchmark
from reports.declined import unsupported_table
from reports.headline import benchmark_headline, headline, power_headline
from reports.html import html_text
from reports.junit import junit_text
from reports.power_tables import power_tables
from reports.summary import benchmark_text, power_text, summary_text
from reports.tables import (
    certification_table,
    cost_table,
    coverage_table,
    error_table,
    failure_table,
    pooled_table,
    relation_table,
    speed_table,
)

__all__ = ["write_report"]


def write_report(folder: Path, *, power: Path | None = None) -> Path:
    """Writes ``report/`` into the folder of a run and returns the path of its page.

    The files are ``index.html``, ``summary.md``, ``junit.xml`` and a CSV file per table. A folder of ``attest power``,
    or one with the times of a benchmark, has a page as well, without what only records have.

    Args:
        folder: of a run, of ``attest power``, or of a benchmark.
        power: folder of ``attest power`` whose results join those of the run; by default the folder's own, if any.

    Raises:
        UsageError: the folder holds no record, no power and no times, or jinja2 is missing (extra ``attest[report]``).
        TestbenchError: the folder cannot be written.
    """
    results = read_power(power or folder) if power or has_power(folder) else None
    lines = read_benchmark(folder) if benchmark_files(folder) else []
    if results is None and not benchmark_files(folder) and not (folder / RECORDS).is_file():
        expected = f"a folder with a {RECORDS}, a power.json or a {BENCHMARK}"
        raise UsageError(f"report: got {str(folder)!r}, expected {expected}")
    alone = (results is not None or bool(lines)) and not has_records(folder)
    records = [] if alone else list(read_records(folder))
    if not records and results is None and not lines:
        raise UsageError(f"store: got {str(folder)!r} without a single record, expected at least one to report on")
    run = read_run(folder) if (folder / "run.json").is_file() else {}
    tests = pooled(records)
    frames = _frames(records, tests, read_certificates(folder), results, lines)
    if records:
        first = headline(records, run, results, tests=tests)
        texts = {
            "summary.md": summary_text(records, first, frames["speed"], results),
            "junit.xml": junit_text(records),
        }
    elif results is not None:
        first = power_headline(results)
        texts = {"summary.md": power_text(results)}
    else:
        first = benchmark_headline(lines)
        texts = {"summary.md": benchmark_text(first, frames["speed"])}
    tables = {f"{name}.csv": frame.to_csv(index=False) for name, frame in frames.items()}
    return (
        _write(folder / "report", {"index.html": html_text(first, frames, records), **texts, **tables}) / "index.html"
    )


def _frames(
    records: Sequence[Record],
    tests: Sequence[Pooled],
    certificates: Sequence[Certificate],
    results: PowerResults | None,
    lines: Sequence[Line],
) -> dict[str, pd.DataFrame]:
    speed = speed_table(records)
    if lines:
        timed = benchmark_table(lines, list(speed.columns))
        speed = timed if speed.empty else pd.concat([speed, timed], ignore_index=True)
    return {
        "failures": failure_table(records),
        "errors": error_table(records),
        "speed": speed,
        "pooled": pooled_table(tests),
        "relations": relation_table(records),
        "coverage": coverage_table(records),
        "unsupported": unsupported_table(records),
        "certification": certification_table(certificates),
        "costs": cost_table(records),
        **(power_tables(results) if results else {}),
    }


def _write(report: Path, texts: Mapping[str, str]) -> Path:
    try:
        report.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (report / name).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise TestbenchError(f"report: {report} cannot be written ({error.strerror or error})") from error
    return report
