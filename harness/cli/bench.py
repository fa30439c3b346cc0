"""``attest bench``: speed of candidates that passed, in pairs with a baseline."""

import argparse

from rich.console import Console
from rich.table import Table

from harness.campaign import lanes
from harness.cases import case_from_data
from harness.cli.options import (
    add_candidates,
    add_device,
    add_out,
    chosen,
    items_of,
    new_folder,
    positive,
    require_items,
    settings_of,
)
from harness.cli.progress import collect, exit_code, interrupted, output_console
from harness.errors import UsageError, nearest
from harness.ops import operation
from harness.profiles import PROFILES
from harness.records import Record
from harness.speed import Speed
from harness.store import Store, write_run
from harness.strategies import DTYPES
from harness.timing import BASELINE

__all__ = ["EXAMPLE", "HELP", "NAME", "add_arguments", "execute"]

NAME = "bench"
HELP = "Speed of verified candidates, measured in pairs with a baseline."
EXAMPLE = "attest bench --op attention --repeats 31"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("--op", required=True, help="operation, see attest list")
    add_candidates(parser)
    parser.add_argument("--baseline", default=BASELINE, help=f"candidate to compare with (default {BASELINE})")
    parser.add_argument("--repeats", type=positive, default=21, help="paired repetitions (default 21)")
    add_device(parser)
    add_out(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    row = operation(arguments.op)
    fields = PROFILES["quick"].timed.get(row.name)
    if fields is None:
        timed = ", ".join(PROFILES["quick"].timed)
        raise UsageError(f"--op: got {row.name!r}, expected an operation with a timed shape: {timed}")
    settings = settings_of(arguments)
    found, candidates = chosen(arguments, row.name)
    known = [item.name for item in found.candidates.values() if item.op == row.name]
    if arguments.baseline not in {BASELINE, *known}:
        hint = nearest(arguments.baseline, known)
        raise UsageError(
            f"--baseline: got {arguments.baseline!r}, expected {BASELINE} or one of {', '.join(known)}{hint}"
        )
    cases = [case_from_data({"op": row.name, "dtype": dtype, **fields}) for dtype in DTYPES]
    items = items_of(cases, candidates)
    require_items(items, cases)
    folder = new_folder(arguments.out)
    console = output_console()
    with Store(folder) as store, lanes(settings, 1) as pool:
        write_run(
            folder,
            {
                "command": NAME,
                "op": row.name,
                "repeats": arguments.repeats,
                "candidates": arguments.candidate,
                "plugin": arguments.plugin,
            },
        )
        speed = Speed(repeats=arguments.repeats, baseline=arguments.baseline)
        try:
            total = sum(len(item.candidates) for item in items)
            records = collect(pool.speed(items, speed), store, total=total, label=f"bench {row.name}")
        except KeyboardInterrupt:
            pool.kill()
            interrupted(folder, "the same command")
            return 130
    _print(records, console)
    console.print(f"records: {folder}", markup=False, soft_wrap=True)
    return exit_code(records)


def _print(records: list[Record], console: Console) -> None:
    table = Table(
        "candidate", "phase", "median us", "low", "high", "ratio to baseline", "interval", "verdict",
        box=None, header_style="bold",
    )  # fmt: skip
    for record in records:
        for timing in record.timings:
            pair = timing.comparison
            ratio = (f"{pair.ratio:.3f}", f"{pair.low:.3f} to {pair.high:.3f}", pair.verdict) if pair else ("", "", "")
            figures = (f"{value:.1f}" for value in (timing.median_us, timing.low_us, timing.high_us))
            table.add_row(record.candidate, timing.phase, *figures, *ratio)
        if not record.timings:
            why = record.reason or "not timed: it runs in Triton's interpreter here"
            table.add_row(record.candidate, record.verdict.value, *[""] * 5, why)
    console.print(table)
