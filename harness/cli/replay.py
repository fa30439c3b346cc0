"""``attest replay``: runs one case again and explains the verdict."""

import argparse

from rich.console import Console

from harness.candidates import find_candidates, select
from harness.cases import case_and_candidate
from harness.cli.options import add_candidates, add_device, add_relations, items_of, settings_of
from harness.cli.progress import exit_code, output_console
from harness.errors import UsageError
from harness.execute import Worker
from harness.explanation import explanation
from harness.records import Record
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
    add_relations(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    case, names = case_and_candidate(arguments.case)
    arguments.candidate = arguments.candidate or names
    settings = settings_of(arguments)
    candidates = select(find_candidates(arguments.plugin), op=case.op, names=arguments.candidate)
    items = items_of([case], [item for item in candidates if arguments.device in item.devices])
    if not items:
        raise UsageError(
            f"no candidate of {case.op} stores {case.dtype} and runs on {arguments.device}: see attest list"
        )
    chosen = items[0].candidates
    console = output_console()
    console.soft_wrap = True
    console.print(case.to_line(), markup=False, style="dim")
    with Worker(device=settings.device, threads=settings.threads, limit_s=settings.limit_s) as worker:
        records = verify(case, [item for item in candidates if item.name in chosen], worker, settings)
    for record in records:
        explain(record, console)
    return exit_code(records)


def explain(record: Record, console: Console) -> None:
    """Prints a record: verdict, reason, and a row per output and gradient."""
    console.print()
    console.print(f"{record.candidate}: {record.verdict.value}", markup=False, style="bold")
    for line in explanation(record):
        console.print(line, markup=False)
    if record.traceback:
        console.print(record.traceback, markup=False, style="dim")
