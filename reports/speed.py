"""Times on a terminal: a row per case, candidate and phase, each beside its baseline, its noise and its floor."""

import math
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.records import Record, Timing, Verdict
from reports.explain import shape_summary
from reports.text import MISSING, number, plain

__all__ = ["print_speed"]

_STYLES = {"FASTER": "green", "SLOWER": "bold red", "AMBIGUOUS": "yellow"}


def print_speed(records: Sequence[Record], console: Console) -> None:
    """Prints the times, a table per case, and a sentence for whoever has none."""
    cases: dict[str, list[Record]] = {}
    for record in records:
        cases.setdefault(record.case_id, []).append(record)
    for group in cases.values():
        first = group[0]
        title = f"{plain(first.op)} {plain(first.case.get('dtype', ''))}, {plain(shape_summary(first), limit=160)}"
        table = Table(box=None, pad_edge=False, header_style="bold", title=Text(title), title_justify="left")
        for name in ("candidate", "phase"):
            table.add_column(name, overflow="fold")
        for name in ("median us", "of floor", "ratio", "interval", "noise", "verdict"):
            table.add_column(name, justify="right")
        for record in group:
            for timing in record.timings:
                table.add_row(Text(plain(record.candidate)), Text(plain(timing.phase)), *_figures(timing))
        if table.row_count:
            console.print(table)
        for record in group:
            if not record.timings:
                console.print(Text(f"{plain(record.candidate)}: {_why(record)}"))
        console.print()


def _figures(timing: Timing) -> list[Text]:
    share = MISSING if timing.floor_us is None else f"{100 * timing.floor_us / timing.median_us:.0f} %"
    pair = timing.comparison
    if pair is None:
        return [Text(number(timing.median_us)), Text(share)]
    noise = MISSING if pair.noise is None else f"{100 * math.expm1(pair.noise):.1f} %"
    return [
        Text(number(timing.median_us)), Text(share), Text(number(pair.ratio)),
        Text(f"{number(pair.low)} to {number(pair.high)}"), Text(noise),
        Text(plain(pair.verdict), style=_STYLES.get(pair.verdict, "")),
    ]  # fmt: skip


def _why(record: Record) -> str:
    """Returns why a candidate has no time."""
    if record.verdict is not Verdict.PASS:
        return f"{record.verdict}: {plain(record.reason, limit=200)}"
    return "PASS and not timed: it is the baseline, its baseline did not pass, or it runs in Triton's interpreter here"
