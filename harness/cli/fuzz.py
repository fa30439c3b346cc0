"""``attest fuzz``: draws cases of one operation and judges its candidates."""

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence

from harness.campaign import Item, lanes
from harness.cli.failures import report_failures
from harness.cli.options import (
    Deadline,
    add_candidates,
    add_device,
    add_out,
    chosen,
    items_of,
    jobs_of,
    minutes,
    new_folder,
    positive,
    settings_of,
)
from harness.cli.progress import collect, exit_code, interrupted, output_console
from harness.codec import to_json
from harness.errors import UsageError, nearest
from harness.operations.base import Operation
from harness.ops import operation
from harness.records import Record
from harness.store import Store, write_run
from harness.strategies import draw_cases
from optimized.candidate import Candidate
from reports.terminal import print_summary

__all__ = ["EXAMPLE", "HELP", "NAME", "add_arguments", "execute"]

NAME = "fuzz"
HELP = "Draw cases of an operation and judge its candidates; failures are shrunk and printed."
EXAMPLE = "attest fuzz --op attention --candidate triton-attention-bf16 --cases 50"

_BATCH = 100
"""Cases drawn at once when only the time is limited."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("--op", required=True, help="operation, see attest list")
    add_candidates(parser)
    parser.add_argument("--cases", type=positive, default=None, help="number of cases (default 100)")
    parser.add_argument("--minutes", type=minutes, default=None, help="stop after so many minutes")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (default 0)")
    parser.add_argument("--regime", action="append", help="only this value regime; may be repeated")
    parser.add_argument("--largest", type=positive, default=100, help="largest number of tokens (default 100)")
    parser.add_argument("--json", action="store_true", help="print records as JSON lines")
    add_device(parser)
    add_out(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    row = operation(arguments.op)
    check_regimes(row, arguments.regime)
    settings = settings_of(arguments)
    _, candidates = chosen(arguments, row.name)
    deadline = Deadline(arguments.minutes)
    folder = new_folder(arguments.out)
    console = output_console(stderr=arguments.json)
    with Store(folder) as store, lanes(settings, jobs_of(arguments)) as pool:
        write_run(folder, {"command": NAME, "seed": arguments.seed, "op": row.name, "cases": _count(arguments)})
        try:
            records = collect(
                pool.verify(_items(arguments, row, candidates)),
                store,
                total=_total(arguments, row, candidates),
                label=f"fuzz {row.name}",
                deadline=deadline,
                show=_print_json if arguments.json else None,
            )
            report_failures(records, pool, store, console, plugin=arguments.plugin)
        except KeyboardInterrupt:
            pool.kill()
            interrupted(folder, f"attest report {folder} (what there is), or the same command for all of it")
            return 130
    print_summary(records, console)
    console.print(f"records: {folder}", markup=False, soft_wrap=True)
    return exit_code(records)


def _count(arguments: argparse.Namespace) -> int | None:
    """Returns the number of cases; None when only the time limits it."""
    return arguments.cases or (None if arguments.minutes else 100)


def _items(arguments: argparse.Namespace, row: Operation, candidates: Sequence[Candidate]) -> Iterator[Item]:
    """Yields cases with their candidates; without a number of cases it never ends."""
    dtypes = list(dict.fromkeys(item.recipe.storage for item in candidates))
    count = _count(arguments)
    for batch in [0] if count is not None else itertools.count():
        drawn = draw_cases(
            row, count or _BATCH, seed_value=arguments.seed + 1_000_003 * batch, dtypes=dtypes,
            regimes=arguments.regime, largest=arguments.largest,
        )  # fmt: skip
        yield from items_of(drawn, candidates)


def _total(arguments: argparse.Namespace, row: Operation, candidates: Sequence[Candidate]) -> int | None:
    if _count(arguments) is None:
        return None
    return sum(len(item.candidates) for item in _items(arguments, row, candidates))


def check_regimes(row: Operation, regimes: list[str] | None) -> None:
    """Refuses a regime that the operation does not have.

    Raises:
        UsageError: names the nearest regime.
    """
    for regime in regimes or ():
        known = row.case.regimes
        if regime not in known:
            raise UsageError(f"--regime: got {regime!r}, expected one of {', '.join(known)}{nearest(regime, known)}")


def _print_json(record: Record) -> None:
    sys.stdout.write(json.dumps(to_json(record), allow_nan=False) + "\n")
    sys.stdout.flush()
