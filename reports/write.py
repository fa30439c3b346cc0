"""A store's report: one page, the tables behind it as CSV, a summary in Markdown and JUnit XML."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from harness.errors import TestbenchError, UsageError
from harness.records import Certificate, Record
from harness.store import read_certificates, read_records, read_run
from reports.html import html_text
from reports.junit import junit_text
from reports.summary import summary_text
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


def write_report(folder: Path) -> Path:
    """Writes ``report/`` into the folder of a store and returns the path of its page.

    The files are ``index.html``, ``errors.csv``, ``speed.csv``, ``failures.csv``, ``pooled.csv``, ``coverage.csv``,
    ``relations.csv``, ``costs.csv``, ``certification.csv``, ``summary.md`` and ``junit.xml``. Without matplotlib the
    page has no plots and says so.

    Raises:
        UsageError: the folder holds no store or no record, or jinja2 is missing (extra ``attest[report]``).
        TestbenchError: the folder cannot be written.
    """
    records = list(read_records(folder))
    if not records:
        raise UsageError(f"store: got {str(folder)!r} without a single record, expected at least one to report on")
    run = read_run(folder) if (folder / "run.json").is_file() else {}
    frames = _frames(records, read_certificates(folder))
    texts = {
        "index.html": html_text(records, frames, run),
        **{f"{name}.csv": frame.to_csv(index=False) for name, frame in frames.items()},
        "summary.md": summary_text(records, run),
        "junit.xml": junit_text(records),
    }
    return _write(folder / "report", texts) / "index.html"


def _frames(records: Sequence[Record], certificates: Sequence[Certificate]) -> dict[str, pd.DataFrame]:
    return {
        "failures": failure_table(records),
        "errors": error_table(records),
        "pooled": pooled_table(records),
        "relations": relation_table(records),
        "speed": speed_table(records),
        "coverage": coverage_table(records),
        "costs": cost_table(records),
        "certification": certification_table(certificates),
    }


def _write(report: Path, texts: Mapping[str, str]) -> Path:
    try:
        report.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (report / name).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise TestbenchError(f"report: {report} cannot be written ({error.strerror or error})") from error
    return report
