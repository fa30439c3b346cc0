"""The records on a terminal: a row per operation and candidate, and the totals."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.pool import failing, pooled
from harness.records import Record, Verdict
from reports.explain import ratio_gravity
from reports.headline import headline
from reports.text import MISSING, number, plain, tone

__all__ = ["print_summary"]

_STYLES = {"pass": "green", "quiet": "dim", "warn": "yellow", "fail": "bold red"}


def print_summary(records: Sequence[Record], console: Console) -> None:
    """Prints a compact table, one row per operation and candidate with a column per verdict that occurred."""
    if not records:
        console.print("No case was run.")
        return
    first = headline(records, {})
    verdicts = list(first.totals)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("operation", "candidate"):
        table.add_column(name, overflow="fold")
    for name in ("cases", *verdicts, "worst ratio"):
        table.add_column(str(name), justify="right")
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.op, record.candidate), []).append(record)
    for (op, candidate), group in sorted(groups.items()):
        names = (Text(plain(op, limit=60)), Text(plain(candidate, limit=60)))
        table.add_row(*names, *_figures(group, verdicts))
    table.add_section()
    table.add_row(Text("total"), Text(), *_figures(records, verdicts))
    console.print(table)
    for test in (each for tests in failing(pooled(records)).values() for each in tests):
        console.print(Text(f"pooled: {plain(test.sentence, limit=300)}", style=_STYLES["fail"]))
    console.print(Text(f"{first.sentence}.", style=_STYLES["pass" if first.good else "fail"]))


def _figures(group: Sequence[Record], verdicts: Sequence[Verdict]) -> list[Text]:
    counts = {verdict: sum(record.verdict is verdict for record in group) for verdict in verdicts}
    ratios = [judged.max_ratio for record in group for judged in record.judgements if judged.max_ratio is not None]
    worst = max(map(ratio_gravity, ratios), default=None)
    cells = [
        Text(f"{count:,}", style=_STYLES[tone(verdict)]) if count else Text(MISSING, style="dim")
        for verdict, count in counts.items()
    ]
    return [Text(f"{len(group):,}"), *cells, Text(number(worst), style="bold red" if (worst or 0) > 1 else "")]
