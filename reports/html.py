"""The page: one HTML file that opens without a network, rendered from plain data by one template."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from harness.errors import UsageError
from harness.records import Record
from reports.headline import headline, phase_shares, verdict_map
from reports.page import anchor, build_tables
from reports.plots import plots_available, ratio_plots
from reports.text import number, percent, plain, tone

__all__ = ["html_text"]

TEMPLATES = Path(__file__).parent / "templates"


def html_text(records: Sequence[Record], frames: Mapping[str, pd.DataFrame], run: Mapping[str, Any]) -> str:
    """Returns the page.

    Its content security policy allows no request and no script but its own, so that what a record says stays text
    even if it were taken for markup.

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
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    spreads, growths = ratio_plots(records) if plots_available() else ([], [])
    dtypes, fields = verdict_map(records)
    return environment.get_template("report.html.j2").render(
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        markup=Markup,
        first=headline(records, run),
        tables=build_tables(frames, records),
        dtypes=dtypes,
        fields=fields,
        shares=phase_shares(records),
        plots_available=plots_available(),
        spreads=spreads,
        growths=growths,
        anchor=anchor,
        number=number,
        percent=percent,
        plain=plain,
        tone=tone,
    )
