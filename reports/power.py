"""The score of the judge on a terminal: what was caught, beside the rules of other projects, and what was missed."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.power_results import OURS, FaultScore, PowerResults, RuleScore, Share
from reports.text import MISSING, number, percent, plain, plural

__all__ = ["print_power"]


def print_power(results: PowerResults, console: Console) -> None:
    """Prints the tables of a run of ``attest power``."""
    _print_shares(results, console)
    _print_rules(results.rules, console)
    _print_resolution(results, console)
    _print_missed(results, console)
    for sentence in results.alarms:
        console.print(Text(f"false alarm: {plain(sentence)}", style="bold red"), soft_wrap=True)
    caught = sum(item.outcome == "caught" for item in results.faults)
    distinct = {item.id + item.name + item.op for item in results.faults}
    found = ", ".join(f"{plain(name)} {count}" for name, count in results.found_by.items())
    console.print(Text(f"plainest check that caught it: {found or MISSING}"), soft_wrap=True)
    console.print(
        f"{caught} of {len(results.faults)} caught ({plural(len(distinct), 'fault')}, each dtype counted), "
        f"{plural(len(results.alarms), 'false alarm')}, {results.seconds:.0f} s.",
        soft_wrap=True,
    )


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(names[0], overflow="fold")
    for name in names[1:]:
        table.add_column(name, justify="right")
    return table


def _print_shares(results: PowerResults, console: Console) -> None:
    table = _table("seeded faults", "faults", "caught", "%", "runs", "% of runs")
    parts: dict[str, Sequence[Share]] = {
        "operation": results.operations, "detector": results.detectors, "phase": results.phases,
        "regime": results.regimes,
    }  # fmt: skip
    for title, items in parts.items():
        table.add_row(Text(title, style="bold"))
        for item in items:
            table.add_row(Text(f"  {plain(item.name)}"), *_counts(item.faults, item.faults_caught), f"{item.runs:,}",
                          _share(item.runs_caught, item.runs))  # fmt: skip
    console.print(table)


def _print_rules(rules: Sequence[RuleScore], console: Console) -> None:
    table = _table(
        "rule", "faults", "caught", "%", "runs", "% of runs", "first output alone, %", "healthy", "false alarms"
    )
    for item in rules:
        alarms = f"{item.alarms:,}"
        table.add_row(
            Text(plain(item.rule), style="bold" if item.rule == OURS else ""),
            *_counts(item.faults, item.faults_caught), f"{item.runs:,}", _share(item.caught, item.runs),
            _share(item.forward[1], item.forward[0]), f"{item.healthy:,}",
            Text(alarms, style="bold red" if item.alarms else "green"),
        )  # fmt: skip
    console.print(table)


def _print_resolution(results: PowerResults, console: Console) -> None:
    if not results.resolution:
        return
    table = _table("smallest error caught", "dtype", "kind", "95 % of cases", "half of them", "cases")
    for item in results.resolution:
        table.add_row(item.op, item.dtype, item.kind, number(item.dose), number(item.median), f"{item.cases:,}")
    console.print(table)


def _print_missed(results: PowerResults, console: Console) -> None:
    missed = [item for item in results.faults if item.outcome != "caught"]
    if not missed:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("not caught", "reached", "why"):
        table.add_column(name, overflow="fold", justify="right" if name == "reached" else "left")
    for item in missed:
        table.add_row(Text(plain(item.key)), f"{item.reached} of {item.cases}", Text(_why(item)))
    console.print(table)


def _why(item: FaultScore) -> str:
    if item.broken:
        return f"{item.broken} runs raised instead"
    if item.outcome == "unreached":
        return "no case shows it"
    return plain(item.excuse) or plain(item.what)


def _counts(faults: int, caught: int) -> tuple[str, str, str]:
    return f"{faults:,}", f"{caught:,}", _share(caught, faults)


def _share(part: int, whole: int) -> str:
    return percent(part / whole) if whole else MISSING
