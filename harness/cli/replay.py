"""``attest replay``: runs one case again and explains the verdict."""

import argparse

from rich.console import Console
from rich.table import Table

from harness.candidates import find_candidates, select
from harness.cases import case_from_text
from harness.cli.options import add_candidates, add_device, items_of, settings_of
from harness.cli.progress import exit_code
from harness.errors import UsageError
from harness.execute import Worker
from harness.records import Judgement, Record
from harness.verify import verify

__all__ = ["EXAMPLE", "HELP", "NAME", "add_arguments", "execute"]

NAME = "replay"
HELP = "Run one case again and explain the verdict: worst element by named axes, got, expected, bound, ratio."
EXAMPLE = """attest replay '{"op":"rms_norm","batch":1,"tokens":2,"channels":8}' --candidate torch-rms-norm-fp32"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("case", metavar="CASE", help="a case as JSON, or a file that holds a case or a record")
    add_candidates(parser)
    add_device(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    case = case_from_text(arguments.case)
    settings = settings_of(arguments)
    candidates = select(find_candidates(arguments.plugin), op=case.op, names=arguments.candidate)
    items = items_of([case], [item for item in candidates if arguments.device in item.devices])
    if not items:
        raise UsageError(
            f"no candidate of {case.op} stores {case.dtype} and runs on {arguments.device}: see attest list"
        )
    names = items[0].candidates
    console = Console(soft_wrap=True, highlight=False)
    console.print(case.to_line(), markup=False, style="dim")
    with Worker(device=settings.device, threads=settings.threads, limit_s=settings.limit_s) as worker:
        records = verify(case, [item for item in candidates if item.name in names], worker, settings)
    for record in records:
        explain(record, console)
    return exit_code(records)


def explain(record: Record, console: Console) -> None:
    """Prints a record: verdict, reason, and a row per output and gradient."""
    console.print()
    console.print(f"{record.candidate}: {record.verdict.value}", markup=False, style="bold")
    if record.reason:
        console.print(f"  {record.reason}", markup=False)
    if record.judgements:
        table = Table(
            "tensor", "verdict", "ratio", "at", "got", "expected", "bound", "gain", "largest legal gain", "rms",
            box=None, header_style="bold",
        )  # fmt: skip
        for item in record.judgements:
            table.add_row(*_row(item))
        console.print(table)
    for relation in record.relations:
        console.print(f"  relation {relation.name}: {relation.verdict.value} {relation.reason}".rstrip(), markup=False)
    if record.unchecked:
        console.print(
            f"  not checked, since the candidate does not give it: {', '.join(record.unchecked)}", markup=False
        )
    for retest in record.retests:
        console.print(
            f"  again with seed {retest['seed']}: {retest['verdict']} {retest['reason']}".rstrip(), markup=False
        )
    if record.traceback:
        console.print(record.traceback, markup=False, style="dim")


def _row(item: Judgement) -> list[str]:
    gain = next((each for each in item.aggregates if each.name == "gain"), None)
    place = ", ".join(f"{axis} {index}" for axis, index in item.worst_index.items())
    return [
        item.output, item.verdict.value, _number(item.max_ratio), place, _number(item.actual, 9),
        _number(item.expected, 9), _number(item.bound), f"{gain.value:+.2e}" if gain else "",
        f"{gain.limit:.2e}" if gain else "", _number(item.rms_ratio),
    ]  # fmt: skip


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}g}"
