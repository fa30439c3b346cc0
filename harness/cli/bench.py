"""``attest bench``: speed of candidates that passed, beside a baseline and the noise of the machine."""

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.bench.shapes import ON_CPU, TIMED
from harness.campaign import Item, lanes
from harness.candidates import Found
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
from harness.operations.case import Case
from harness.ops import operation
from harness.profiles import TIMED_SMALL
from harness.records import Record
from harness.speed import Speed
from harness.store import Store, write_run
from harness.strategies import DTYPES
from harness.timing import BASELINE
from optimized.candidate import Candidate
from reports.speed import print_speed

__all__ = ["EXAMPLE", "HELP", "NAME", "add_arguments", "execute"]

NAME = "bench"
HELP = "Speed of verified candidates, measured in pairs with a baseline."
EXAMPLE = "attest bench --op attention --repeats 31"

MORE_ROUNDS = 8
"""Times as many rounds, at most, where the noise is not far below the smallest effect."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("--op", help="operation, see attest list (default: all that have a timed shape)")
    add_candidates(parser)
    parser.add_argument("--baseline", default=BASELINE, help=f"candidate to compare with (default {BASELINE})")
    parser.add_argument("--standard", action="store_true", help="the standard shapes of the device")
    parser.add_argument(
        "--repeats", type=positive, default=21,
        help=f"rounds (default 21), up to {MORE_ROUNDS} times as many beside a candidate on a noisy machine",
    )  # fmt: skip
    add_device(parser)
    add_out(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    shapes = _shapes(arguments)
    settings = settings_of(arguments)
    found, candidates = chosen(arguments, arguments.op)
    baseline = _baseline(arguments, found)
    if arguments.standard and arguments.device == "cuda":
        return _on_gpu(list(shapes), new_folder(arguments.out), rounds=arguments.repeats)
    cases = [
        case_from_data({"op": op, "dtype": dtype, **fields})
        for op, several in shapes.items()
        for fields in several
        for dtype in DTYPES
    ]
    items = _items(cases, candidates, baseline)
    require_items(items, cases)
    folder = new_folder(arguments.out)
    console = output_console()
    with Store(folder) as store, lanes(settings, 1) as pool:
        write_run(
            folder,
            {
                "command": NAME,
                "op": arguments.op,
                "standard": arguments.standard,
                "repeats": arguments.repeats,
                "candidates": arguments.candidate,
                "plugin": arguments.plugin,
            },
        )
        # Beside the reference, of another kind and several times as slow, nothing hangs on a percent.
        more = 1 if baseline is None else MORE_ROUNDS
        speed = Speed(repeats=arguments.repeats, most=more * arguments.repeats, baseline=arguments.baseline)
        try:
            total = sum(len(item.candidates) for item in items)
            records = collect(pool.speed(items, speed), store, total=total, label=f"bench {arguments.op or 'all'}")
        except KeyboardInterrupt:
            pool.kill()
            interrupted(folder, "the same command")
            return 130
    print_speed(records, console)
    console.print(f"records: {folder}", markup=False, soft_wrap=True)
    return max(exit_code(records), int(_is_slower(records)))


def _shapes(arguments: argparse.Namespace) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Returns, by operation, the fields of the cases that are timed.

    Raises:
        UsageError: the operation has none.
    """
    if arguments.standard:
        shapes = TIMED if arguments.device == "cuda" else ON_CPU
    else:
        shapes = {op: (fields,) for op, fields in TIMED_SMALL.items()}
    if arguments.op is None:
        return shapes
    name = operation(arguments.op).name
    if name not in shapes:
        raise UsageError(f"--op: got {name!r}, expected an operation with a timed shape: {', '.join(shapes)}")
    return {name: shapes[name]}


def _baseline(arguments: argparse.Namespace, found: Found) -> Candidate | None:
    """Returns the candidate to compare with; None for the reference.

    Raises:
        UsageError: there is no such candidate of the operation.
    """
    if arguments.baseline == BASELINE:
        return None
    known = [item.name for item in found.candidates.values() if arguments.op in {None, item.op}]
    if arguments.baseline not in known:
        hint = nearest(arguments.baseline, known)
        raise UsageError(
            f"--baseline: got {arguments.baseline!r}, expected {BASELINE} or one of {', '.join(known)}{hint}"
        )
    return found.candidates[arguments.baseline]


def _items(cases: Sequence[Case], candidates: Sequence[Candidate], baseline: Candidate | None) -> list[Item]:
    """Returns the cases with their candidates; a baseline that is one has to pass as well, on cases of its format."""
    if baseline is None:
        return items_of(cases, candidates)
    own = [case for case in cases if case.op == baseline.op and case.dtype == baseline.recipe.storage]
    others = [item for item in candidates if item.name != baseline.name]
    return [Item(item.case, (*item.candidates, baseline.name)) for item in items_of(own, others)]


def _on_gpu(ops: Sequence[str], folder: Path, *, rounds: int) -> int:
    """Times each operation beside other people's kernels, in a process of its own: one may lose the device."""
    codes = []
    for op in ops:
        words = ("--op", op, "--device", "cuda", "--repeats", str(rounds), "--out", str(folder / op))
        codes.append(subprocess.run([sys.executable, "-m", "harness.gpu.benchmark", *words], check=False).returncode)
    sys.stdout.write(f"lines: {folder}/*/benchmark.jsonl\n")
    return max(min(code, 1) if code >= 0 else 1 for code in codes)


def _is_slower(records: Sequence[Record]) -> bool:
    """Returns whether one candidate is slower than another; beside the reference, of another kind, it is only told."""
    pairs = [timing.comparison for record in records for timing in record.timings]
    return any(pair.verdict == "SLOWER" and pair.baseline != BASELINE for pair in pairs if pair is not None)
