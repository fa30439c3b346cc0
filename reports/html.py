"""The page: one HTML file that opens without a network. A template frames it, a script fills it from plain data."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from harness.errors import UsageError
from harness.records import Record
from reports.compact import page_json
from reports.headings import HEADINGS
from reports.headline import Headline
from reports.page import Table, build_tables, case_table, speed_points, table_data
from reports.text import plain, tone

__all__ = ["html_text"]

ROOM = Path(__file__).parent
TEMPLATES, VENDOR = ROOM / "templates", ROOM / "vendor"
LIBRARIES = ("d3.min.js", "plot.min.js")
SCRIPTS = ("data.js", "cells.js", "rows.js", "table.js", "cases.js", "chart.js", "plots.js", "heatmap.js", "page.js")
"""Joined in this order into one function, so that they share their names and nothing else does."""


def html_text(first: Headline, frames: Mapping[str, pd.DataFrame], records: Sequence[Record]) -> str:
    """Returns the page.

    Its content security policy allows no request and no script but its own, so that what a record says stays text
    even if it were taken for markup. The data are JSON in an element that is never executed.

    Raises:
        UsageError: jinja2 is missing.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise UsageError("report: got no jinja2, expected it to be installed: pip install 'attest[report]'") from error
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    tables = build_tables(frames, records)
    scripts = [_read(VENDOR / name) for name in LIBRARIES] + [_script()]
    return environment.get_template("report.html.j2").render(
        style=Markup(_read(TEMPLATES / "report.css")),
        scripts=[Markup(script) for script in scripts],
        hashes=[base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts],
        data=Markup(page_json(_data(tables, frames, records))),
        first=first,
        headings=HEADINGS,
        tables=tables,
        has_records=bool(records),
        has_times=not frames["speed"].empty,
        case_count=len(records),
        plain=plain,
        tone=tone,
    )


def _data(tables: Mapping[str, Table], frames: Mapping[str, pd.DataFrame], records: Sequence[Record]) -> dict[str, Any]:
    shown = {name: table_data(table) for name, table in tables.items() if table.rows}
    cases = case_table(records) if records else None
    return {"tables": shown, "cases": cases, "speed": speed_points(frames["speed"])}


def _script() -> str:
    parts = "\n".join(_read(TEMPLATES / "script" / name) for name in SCRIPTS)
    return f'"use strict";\n(() => {{\n{parts}\n}})();\n'


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
