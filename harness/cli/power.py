"""``attest power``: how much the judge catches, beside the rules of other projects, on seeded faults."""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from harness.campaign import default_jobs, lanes
from harness.cli.gate import judge_losses
from harness.cli.options import new_folder, positive, settings_of
from harness.cli.progress import error_console, output_console
from harness.codec import to_json
from harness.errors import UsageError
from harness.ops import operation
from harness.power.catalogue import entries, load_catalogue, select_faults
from harness.power.measure import measure
from harness.power.profile import FULL, QUICK, subset
from harness.power_results import PowerResults, has_power, write_power
from reports.gate import BASELINES, lost, read_baseline, section_of
from reports.power import print_power

__all__ = ["EXAMPLE", "HELP", "NAME", "add_arguments", "execute"]

NAME = "power"
HELP = "Score the judge on seeded faults and healthy twins, beside the rules of other projects on the same runs."
EXAMPLE = "attest power --quick"

_Item = TypeVar("_Item")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("--op", help="only the faults of this operation")
    parser.add_argument("--fault", metavar="ID", help="only this fault, by its id or name")
    parser.add_argument("--quick", action="store_true", help="every fault in one dtype on a few small cases")
    parser.add_argument(
        "--cases", type=positive, help=f"most cases of a fault (default {FULL.cases}, with --quick {QUICK.cases})"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (default 0)")
    parser.add_argument("--catalogue", type=Path, metavar="FILE.py", help="faults of a file instead of the project's")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where kernels run (default cpu)")
    parser.add_argument("--jobs", type=positive, default=None, help="lanes in parallel (default: one per core)")
    parser.add_argument("--limit", type=positive, default=20, metavar="S", help="seconds a call may take (default 20)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the results (default attest-out/<time>)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    if arguments.op is not None:
        operation(arguments.op)
    if arguments.out is not None and has_power(arguments.out):
        raise UsageError(f"--out: {arguments.out} holds the results of another run, expected a new or an empty folder")
    catalogue = load_catalogue(arguments.catalogue)
    chosen = entries(select_faults(catalogue, op=arguments.op, fault=arguments.fault))
    profile = QUICK if arguments.quick else FULL
    chosen = subset(chosen) if arguments.quick else chosen
    folder = new_folder(arguments.out)
    settings = dataclasses.replace(settings_of(arguments), plugin=catalogue.plugin)
    started = time.monotonic()
    console = output_console(stderr=arguments.json)
    asked = {
        "command": NAME, "profile": profile.name, "op": arguments.op, "fault": arguments.fault,
        "cases": arguments.cases or profile.cases, "seed": arguments.seed,
        "device": arguments.device, "catalogue": None if arguments.catalogue is None else str(arguments.catalogue),
    }  # fmt: skip
    try:
        with lanes(settings, arguments.jobs or default_jobs()) as pool:
            results = measure(catalogue, chosen, pool, profile, asked, started=started, shown=_shown)
    except KeyboardInterrupt:
        sys.stderr.write("attest: interrupted; a score of some of the faults would say nothing, so none was written\n")
        return 130
    write_power(folder, results)
    if arguments.json:
        sys.stdout.write(json.dumps(to_json(results), allow_nan=False) + "\n")
    print_power(results, console)
    console.print(f"results: {folder}", markup=False, soft_wrap=True)
    return _exit_code(results, console)


def _exit_code(results: PowerResults, console: Console) -> int:
    """Returns 1 when a healthy twin was failed, or a fault was lost that the checkout's own baseline has.

    A part of the catalogue, other faults, and other cases than the baseline's have no baseline.
    """
    asked = results.asked
    baseline = BASELINES / f"power-{asked['device']}-{asked['profile']}.json"
    lost_faults = 0
    if not (asked["op"] or asked["fault"] or asked["catalogue"]) and baseline.is_file():
        section, before = section_of(results), read_baseline(baseline)["power"]
        if all(section[name] == before[name] for name in ("cases", "seed")):
            lost_faults = judge_losses(lost(section, before), section, console)
    return int(bool(results.alarms) or bool(lost_faults))


def _shown(found: Iterator[_Item], total: int, label: str) -> Iterator[_Item]:
    """Yields what is found, with a progress bar on stderr."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=error_console()) as bar:
        task = bar.add_task(label, total=total)
        for item in found:
            yield item
            bar.update(task, advance=1)
