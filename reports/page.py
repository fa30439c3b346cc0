"""What the page shows, as plain data for the template: tables of cells, badges and anchors; no markup."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from harness.records import Record, Verdict
from reports.explain import case_json, explain, reproduction
from reports.headings import HEADINGS, Heading
from reports.tables import failure_table, open_records
from reports.text import MISSING, number, percent, plain, tone

__all__ = ["Badge", "Cell", "Failure", "Row", "Table", "anchor", "badges", "build_tables", "failure_anchor"]

ROWS_SHOWN = 800
"""Rows of a table on the page; the CSV file holds all of them."""

FAILURES_SHOWN = 150
"""Failures on the page, each with its case and its reproduction; ``failures.csv`` holds all of them."""

NAME, SENTENCE, LISTING, LONG = 60, 300, 1_500, 2_500


@dataclass(frozen=True, slots=True, kw_only=True)
class Badge:
    """A verdict as text, with the tone that colours it."""

    text: str
    tone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What stands behind a failing row: why, and how to see it again."""

    sentences: Sequence[str]
    case: str
    reproduction: str
    origin: str
    traceback: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell: text, badges before it, a link within the page, and for failures what opens below."""

    text: str = ""
    badges: Sequence[Badge] = ()
    href: str = ""
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row with the anchor under which it can be linked to."""

    anchor: str
    cells: Sequence[Cell]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table of the page: its heading, the rows shown, and how many only the CSV file holds."""

    name: str
    heading: Heading
    rows: Sequence[Row]
    left_out: int


def anchor(table: str, *key: object) -> str:
    """Returns an identifier that stays the same from report to report: the table and a hash of the row's key."""
    digest = hashlib.blake2s("\x1f".join(map(str, key)).encode("utf-8", errors="backslashreplace"))
    return f"{table}-{digest.hexdigest()[:10]}"


def failure_anchor(record: Record) -> str:
    """Returns the anchor of a record in the table of failures."""
    return anchor("failures", plain(record.candidate), plain(record.case_id))


def badges(tally: str) -> list[Badge]:
    """Returns badges for a tally such as ``"PASS 12, FAIL_NUMERIC 1"``."""
    return [Badge(text=item, tone=tone(Verdict(item.split(" ")[0]))) for item in tally.split(", ") if item]


def build_tables(frames: Mapping[str, pd.DataFrame], records: Sequence[Record]) -> dict[str, Table]:
    """Returns the tables of the page by name, from the frames of ``reports.tables`` and the records behind them."""
    shown = {failure_anchor(record) for record in open_records(records)[:FAILURES_SHOWN]}
    return {
        "failures": _failures(records),
        "errors": _errors(frames["errors"], shown),
        "pooled": _from_frame("pooled", frames["pooled"], _pooled_cells),
        "relations": _from_frame("relations", frames["relations"], _relation_cells),
        "speed": _from_frame("speed", frames["speed"], _speed_cells),
        "coverage": _from_frame("coverage", frames["coverage"], _coverage_cells),
        "costs": _from_frame("costs", frames["costs"], _cost_cells),
        "certification": _from_frame("certification", frames["certification"], _certificate_cells),
    }


def _failures(records: Sequence[Record]) -> Table:
    opened = open_records(records)
    shown = opened[:FAILURES_SHOWN]
    rows = [_failure_row(record, row) for record, row in zip(shown, _dictionaries(failure_table(shown)), strict=True)]
    return _table("failures", rows, left_out=len(opened) - len(rows))


def _failure_row(record: Record, row: Mapping[str, Any]) -> Row:
    failure = Failure(
        sentences=explain(record),
        case=plain(case_json(record), limit=LISTING),
        reproduction=plain(reproduction(record), limit=LISTING),
        origin=plain(f"case {record.case_id}, seed {record.seed}, started {record.started}", limit=3 * NAME),
        traceback=plain(record.traceback, limit=LONG, keep_lines=True),
    )
    reason = Cell(text=plain(record.reason, limit=SENTENCE), failure=failure)
    names = [_name(row[name]) for name in ("op", "candidate", "dtype")]
    verdict = Cell(badges=badges(record.verdict.value))
    return Row(
        anchor=failure_anchor(record),
        cells=[*names, verdict, _name(row["output"]), _figure(row["max_ratio"]), reason],
    )


def _errors(frame: pd.DataFrame, failures: set[str]) -> Table:
    rows = []
    for row in _dictionaries(_shown(frame)):
        behind = anchor("failures", row["candidate"], row["worst_case_id"])
        worst = Cell(text=number(row["worst_ratio"]), href=behind if behind in failures else "")
        cells = [
            *(_name(row[name]) for name in ("op", "candidate", "dtype", "output")),
            Cell(text=f"{row['cases']:,}"),
            Cell(badges=badges(row["verdicts"])),
            worst,
            _figure(row["median_ratio"]),
            Cell(text=percent(row["worst_gain"])),
            Cell(text=percent(row["worst_gain_limit"])),
            _figure(row["rms_ratio"]),
            Cell(text=percent(row["median_gain_caught"])),
            _figure(row["median_element_caught"]),
            Cell(text=plain(row["worst_where"] or MISSING, limit=120)),
        ]
        rows.append(_keyed("errors", row, cells))
    return _table("errors", rows, left_out=len(frame) - len(rows))


def _from_frame(name: str, frame: pd.DataFrame, cells_of: Callable[[Mapping[str, Any]], list[Cell]]) -> Table:
    rows = [_keyed(name, row, cells_of(row)) for row in _dictionaries(_shown(frame))]
    return _table(name, rows, left_out=len(frame) - len(rows))


def _keyed(name: str, row: Mapping[str, Any], cells: Sequence[Cell]) -> Row:
    return Row(anchor=anchor(name, *(row[item] for item in HEADINGS[name].key)), cells=cells)


def _pooled_cells(row: Mapping[str, Any]) -> list[Cell]:
    return [
        *(_name(row[name]) for name in ("op", "candidate", "dtype", "output", "test")),
        Cell(text=f"{row['cases']:,}"),
        Cell(badges=badges(row["verdict"])),
        *(_figure(row[name]) for name in ("value", "limit", "error", "excess")),
    ]


def _relation_cells(row: Mapping[str, Any]) -> list[Cell]:
    names = [_name(row[name]) for name in ("op", "candidate", "relation")]
    return [*names, Cell(text=f"{row['cases']:,}"), Cell(badges=badges(row["verdicts"])), _sentence(row["reason"])]


def _speed_cells(row: Mapping[str, Any]) -> list[Cell]:
    beside = row["baseline"] is not None
    interval = f"{number(row['ratio_low'])} to {number(row['ratio_high'])}" if beside else MISSING
    return [
        *(_name(row[name]) for name in ("op", "candidate", "dtype", "phase")),
        _figure(row["median_us"]),
        Cell(text=f"{number(row['low_us'])} to {number(row['high_us'])}"),
        _name(row["baseline"] or MISSING),
        _figure(row["ratio"]),
        Cell(text=interval),
        Cell(badges=[_speed_badge(row["verdict"])] if beside else []),
        Cell(text=plain(row["shape"], limit=160)),
    ]


def _coverage_cells(row: Mapping[str, Any]) -> list[Cell]:
    tally = ", ".join(f"{verdict} {row[verdict.value]}" for verdict in Verdict if row[verdict.value])
    return [
        *(_name(row[name]) for name in ("op", "candidate", "dtype")),
        Cell(text=f"{row['cases']:,}"),
        Cell(text=f"{row['judged']:,}"),
        Cell(badges=badges(tally)),
        _sentence(row["unsupported_reasons"]),
        _sentence(row["unchecked_outputs"]),
    ]


def _cost_cells(row: Mapping[str, Any]) -> list[Cell]:
    shares = ("inputs", "reference", "budget", "candidate", "worker", "judge")
    return [
        _name(row["op"]),
        _name(row["candidate"]),
        Cell(text=f"{row['cases']:,}"),
        _figure(row["total_s"]),
        _figure(1e3 * row["per_case_s"]),
        *(Cell(text=percent(row[f"{share}_share"])) for share in shares),
    ]


def _certificate_cells(row: Mapping[str, Any]) -> list[Cell]:
    within = Badge(text="within", tone="pass") if row["within_limit"] else Badge(text="beyond", tone="fail")
    return [
        _name(row["op"]),
        _name(row["output"]),
        Cell(text=f"{row['cases']:,}"),
        Cell(text=f"{row['elements']:,}"),
        _figure(row["distance"]),
        _figure(row["limit"]),
        Cell(badges=[within]),
        _figure(row["radius"]),
        Cell(text=f"{row['bits']:,}"),
    ]


def _table(name: str, rows: Sequence[Row], *, left_out: int) -> Table:
    """Returns the table; of rows with the same anchor (a case that was run twice) the later ones get a number."""
    seen: Counter[str] = Counter()
    unique = []
    for row in rows:
        seen[row.anchor] += 1
        count = seen[row.anchor]
        unique.append(row if count == 1 else replace(row, anchor=f"{row.anchor}-{count}"))
    return Table(name=name, heading=HEADINGS[name], rows=unique, left_out=left_out)


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows for the page: all, or the gravest where there are too many and rows have a verdict."""
    if len(frame) <= ROWS_SHOWN or not set(frame.get("verdict", ["none"])) <= set(Verdict):
        return frame.head(ROWS_SHOWN)
    gravity = [-list(Verdict).index(Verdict(verdict)) for verdict in frame["verdict"]]
    order = sorted(range(len(frame)), key=gravity.__getitem__)
    return frame.iloc[sorted(order[:ROWS_SHOWN])]


def _dictionaries(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns the rows with None for every empty cell; pandas keeps it as a NaN in columns of numbers."""
    rows = frame.to_dict("records")
    return [{str(name): None if pd.isna(value) else value for name, value in row.items()} for row in rows]


def _name(text: str | None) -> Cell:
    return Cell(text=plain(text or MISSING, limit=NAME))


def _sentence(text: str | None) -> Cell:
    return Cell(text=plain(text or "", limit=SENTENCE))


def _figure(value: float | None) -> Cell:
    return Cell(text=number(value))


def _speed_badge(verdict: str) -> Badge:
    tones = {"FASTER": "pass", "SLOWER": "fail", "AMBIGUOUS": "warn"}
    return Badge(text=plain(verdict, limit=NAME), tone=tones.get(verdict, "quiet"))
