"""What the page shows, as plain data for its script: tables of values with the anchors of their rows; no markup."""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from harness.records import Record, Verdict
from reports.compact import case_lines, packed
from reports.explain import (
    case_json,
    dtype_of,
    explain,
    gravest_judgement,
    length_of,
    quoted,
    ratio_gravity,
    reproduction,
)
from reports.headings import HEADINGS
from reports.tables import failure_table, open_records
from reports.text import plain

__all__ = [
    "ROWS_SHOWN",
    "Failure",
    "Table",
    "anchor",
    "build_tables",
    "case_table",
    "failure_anchor",
    "speed_points",
    "table_data",
]

ROWS_SHOWN = 1_500
"""Rows of a table on the page; the CSV file holds all of them."""

FAILURES_SHOWN = 150
"""Failures that the page explains, each with its case and its reproduction; ``failures.csv`` holds all of them."""

NAME, SENTENCE, LISTING, LONG = 60, 300, 1_500, 2_500

_SUBJECT = ("op", "candidate", "dtype")

_SOURCES: Mapping[str, Sequence[str | tuple[str, str]]] = {
    "errors": (
        *_SUBJECT, "output", "cases", "verdicts", "worst_ratio", "median_ratio", "worst_gain",
        ("worst_gain_low", "worst_gain_high"), "worst_gain_limit", "rms_ratio", "median_gain_caught",
        "median_element_caught", "worst_where",
    ),
    "speed": (
        *_SUBJECT, "phase", "median_us", ("low_us", "high_us"), "ratio", ("ratio_low", "ratio_high"), "verdict",
        "noise_share", "baseline", "share", "shape",
    ),
    "pooled": (*_SUBJECT, "output", "test", "cases", "verdict", "value", "limit", "error", "excess"),
    "relations": ("op", "candidate", "relation", "cases", "verdicts", "reason"),
    "coverage": (*_SUBJECT, "cases", "judged", "verdicts", "unchecked_outputs"),
    "unsupported": (*_SUBJECT, "cases", "reason"),
    "certification": ("op", "output", "cases", "elements", "distance", "limit", "verdict", "radius", "bits"),
    "costs": (
        "op", "candidate", "cases", "total_s", "per_case_ms", "inputs_share", "reference_share", "budget_share",
        "candidate_share", "worker_share", "judge_share",
    ),
    "rules": (
        "rule", "faults", "faults_caught", "faults_caught_share", "runs", "runs_caught_share", "first_output_share",
        "healthy_runs", "false_alarms",
    ),
    "resolution": ("op", "dtype", "kind", "dose", "median_dose", "cases"),
    "power": (
        "op", "name", "dtype", "phase", "outcome", "reached", "caught", "cases_needed", "detector", "what",
    ),
}  # fmt: skip
"""The columns of a DataFrame that the columns of the page show; two of them are an interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What stands behind a failing row: why, and how to see it again."""

    sentences: Sequence[str]
    case: str
    reproduction: str
    origin: str
    traceback: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table of the page.

    Attributes:
        name: of its heading.
        anchors: under which the rows can be linked to.
        rows: values in the order of the heading's columns.
        links: per row, the anchor of the row that stands behind its ratio, or nothing.
        failures: what stands behind the first rows.
        left_out: how many rows only the CSV file holds.
    """

    name: str
    anchors: Sequence[str]
    rows: Sequence[Sequence[Any]]
    links: Sequence[str] = ()
    failures: Sequence[Failure] = field(default_factory=tuple)
    left_out: int = 0


def anchor(table: str, *key: object) -> str:
    """Returns an identifier that stays the same from report to report: the table and a hash of the row's key."""
    digest = hashlib.blake2s("\x1f".join(map(str, key)).encode("utf-8", errors="backslashreplace"))
    return f"{table}-{digest.hexdigest()[:10]}"


def failure_anchor(record: Record) -> str:
    """Returns the anchor of a record in the table of failures."""
    return anchor("failures", plain(record.candidate), plain(record.case_id))


def build_tables(frames: Mapping[str, pd.DataFrame], records: Sequence[Record]) -> dict[str, Table]:
    """Returns the tables of the page by name, from the frames behind the CSV files and the records behind those."""
    shown = {failure_anchor(record) for record in open_records(records)[:ROWS_SHOWN]}
    tables = {name: _from_frame(name, frames[name], shown) for name in _SOURCES if name in frames}
    return {"failures": _failures(records), **tables}


def table_data(table: Table) -> dict[str, Any]:
    """Returns a table for the page's script: columns of packed values."""
    heading = HEADINGS[table.name]
    data: dict[str, Any] = {
        "name": table.name, "title": heading.title, "columns": [[item.label, item.kind] for item in heading.columns],
        "anchors": [item.removeprefix(f"{table.name}-") for item in table.anchors],
        "values": [packed(column) for column in zip(*table.rows, strict=True)],
    }  # fmt: skip
    if any(table.links):
        data["links"] = packed([link or None for link in table.links])
    if table.failures:
        names = ("sentences", "reproduction", "case", "origin", "traceback")
        data["details"] = [[getattr(failure, name) for name in names] for failure in table.failures]
    return data


def _failures(records: Sequence[Record]) -> Table:
    opened = open_records(records)
    shown = opened[:ROWS_SHOWN]
    frame = failure_table(shown)
    rows = [_cells(row, ("verdict", *_SUBJECT, "output", "max_ratio", "reason")) for row in dictionaries(frame)]
    return Table(
        name="failures", rows=rows, anchors=_unique([failure_anchor(record) for record in shown]),
        failures=[_failure(record) for record in shown[:FAILURES_SHOWN]], left_out=len(opened) - len(shown),
    )  # fmt: skip


def _failure(record: Record) -> Failure:
    return Failure(
        sentences=explain(record) or [plain(record.reason, limit=LONG)],
        case=plain(case_json(record), limit=LISTING),
        reproduction=plain(reproduction(record), limit=LISTING),
        origin=plain(f"case {record.case_id}, seed {record.seed}, started {record.started}", limit=3 * NAME),
        traceback=plain(record.traceback, limit=LONG, keep_lines=True),
    )


def case_table(records: Sequence[Record]) -> dict[str, Any]:
    """Returns all records for the page's script, which makes rows, plots and commands of them."""
    shown = {failure_anchor(record) for record in open_records(records)[:ROWS_SHOWN]}
    anchors = _unique([anchor("cases", plain(record.candidate), plain(record.case_id)) for record in records])
    behind = [failure_anchor(record) for record in records]
    columns: dict[str, list[Any]] = {
        "verdict": [record.verdict.value for record in records],
        "op": [plain(record.op, limit=NAME) for record in records],
        "candidate": [plain(record.candidate, limit=NAME) for record in records],
        "dtype": [plain(dtype_of(record), limit=NAME) for record in records],
        "outputs": [_listed([judged.output for judged in record.judgements]) for record in records],
        "failing": [
            _listed([judged.output for judged in record.judgements if judged.verdict.is_failure]) for record in records
        ],
        "tokens": [length_of(record.case) for record in records],
        "quoted": [plain(quoted(record.candidate), limit=LISTING) for record in records],
        "broken": [plain(",".join(record.broken), limit=LISTING) or None for record in records],
    }
    ratios = [_worst(record) for record in records]
    columns["ratio"] = [ratio for ratio, _ in ratios]
    columns["output"] = [output for _, output in ratios]
    return {
        "title": HEADINGS["cases"].title,
        "columns": [[item.label, item.kind] for item in HEADINGS["cases"].columns],
        "anchors": [item.removeprefix("cases-") for item in anchors],
        "failure": packed([name if name in shown else None for name in behind]),
        **{name: packed(column) for name, column in columns.items()},
        **case_lines(records),
    }


def speed_points(frame: pd.DataFrame) -> dict[str, Any]:
    """Returns the times for the plot of speed against size."""
    names = (*_SUBJECT, "phase", "shape", "tokens", "median_us", "low_us", "high_us", "floor_us", "share")
    rows = dictionaries(frame.head(ROWS_SHOWN))
    return {name: packed([_cell(row[name], "shape") for row in rows]) for name in names} if rows else {}


def _worst(record: Record) -> tuple[float | None, str | None]:
    measured = [
        (ratio_gravity(item.max_ratio), plain(item.output, limit=NAME))
        for item in record.judgements
        if item.max_ratio is not None
    ]
    gravest = gravest_judgement(record)
    return max(measured, default=(None, None if gravest is None else plain(gravest.output, limit=NAME)))


def _listed(names: Sequence[str]) -> str | None:
    return "|".join(plain(name, limit=NAME).replace("|", "/") for name in names[:40]) or None


def _from_frame(name: str, frame: pd.DataFrame, failures: set[str]) -> Table:
    rows = [_derived(name, row) for row in dictionaries(_shown(frame))]
    keys = HEADINGS[name].key
    links = [anchor("failures", row["candidate"], row["worst_case_id"]) for row in rows] if name == "errors" else []
    return Table(
        name=name, rows=[_cells(row, _SOURCES[name]) for row in rows],
        anchors=_unique([anchor(name, *(row[key] for key in keys)) for row in rows]),
        links=[link if link in failures else "" for link in links], left_out=len(frame) - len(rows),
    )  # fmt: skip


def _derived(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row with what the page shows otherwise than its CSV file."""
    if name == "speed":
        return row | {"noise_share": None if row["noise"] is None else math.expm1(row["noise"])}
    if name == "certification":
        return row | {"verdict": "WITHIN" if row["within_limit"] else "BEYOND"}
    if name == "coverage":
        return row | {
            "verdicts": ", ".join(f"{verdict} {row[verdict.value]}" for verdict in Verdict if row[verdict.value])
        }
    return row | {"per_case_ms": 1e3 * row["per_case_s"]} if name == "costs" else row


def _cells(row: Mapping[str, Any], sources: Sequence[str | tuple[str, str]]) -> list[Any]:
    return [
        _cell(row[source], source) if isinstance(source, str) else _interval(row[source[0]], row[source[1]])
        for source in sources
    ]


def _cell(value: object, source: str) -> object:
    if not isinstance(value, str):
        return value
    return plain(value, limit=SENTENCE if source in {"reason", "what", "shape", "unchecked_outputs"} else 2 * NAME)


def _interval(low: object, high: object) -> tuple[object, object] | None:
    return None if low is None or high is None else (low, high)


def _unique(anchors: Sequence[str]) -> list[str]:
    """Returns the anchors; of those that are the same (a case that was run twice) the later ones get a number."""
    seen: Counter[str] = Counter()
    unique = []
    for item in anchors:
        seen[item] += 1
        unique.append(item if seen[item] == 1 else f"{item}-{seen[item]}")
    return unique


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows for the page: all, or the gravest where there are too many and rows have a verdict."""
    if len(frame) <= ROWS_SHOWN or not set(frame.get("verdict", ["none"])) <= set(Verdict):
        return frame.head(ROWS_SHOWN)
    gravity = [-list(Verdict).index(Verdict(verdict)) for verdict in frame["verdict"]]
    order = sorted(range(len(frame)), key=gravity.__getitem__)
    return frame.iloc[sorted(order[:ROWS_SHOWN])]


def dictionaries(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns the rows with None for every empty cell; pandas keeps it as a NaN in columns of numbers."""
    columns = {
        str(name): [
            None if missing else value for value, missing in zip(column.tolist(), column.isna().tolist(), strict=True)
        ]
        for name, column in frame.items()
    }
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
