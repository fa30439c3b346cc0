"""``attest replay``: runs one case again and explains the verdict."""

import argparse

from rich.console import Console

from harness.candidates import find_candidates, select
from harness.cases import case_and_candidate
from harness.cli.options import add_candidates, add_device, add_relations, items_of, settings_of
from harness.cli.progress import exit_code, output_console
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
    if record.reason:
        console.print(f"  {record.reason}", markup=False)
    for item in record.judgements:
        for line in _lines(item):
            console.print(line, markup=False)
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


def _lines(item: Judgement) -> list[str]:
    """Returns what there is to say of a tensor: its worst element, then its tests over all elements."""
    lines = [f"  {item.output}: {item.verdict.value}"]
    if item.bound is not None:
        place = ", ".join(f"{axis}={index}" for axis, index in item.worst_index.items())
        lines.append(
            f"    worst element [{place}]: got {_number(item.actual, 9)}, expected {_number(item.expected, 9)}, "
            f"bound {_number(item.bound)}, ratio {_number(item.max_ratio)}"
        )
    lines += [
        f"    {each.name}: {each.value:+.3g}, largest legal {each.limit:.3g}, standard error {each.error:.2g}"
        for each in item.aggregates
    ]
    if item.rms_ratio is not None:
        lines.append(f"    rms error in units of the recipe's own: {_number(item.rms_ratio)}")
    return lines


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}g}"
