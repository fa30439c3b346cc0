"""``attest gate``: what got worse beside a committed baseline."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.cli.progress import output_console
from harness.power_results import read_power
from reports.gate import Trip, lost, read_baseline, section_of, told, write_baseline

__all__ = ["EXAMPLE", "HELP", "NAME", "add_arguments", "execute", "judge_losses"]

NAME = "gate"
HELP = "Compare the results of a folder with a committed baseline; exits with 1 when something was lost."
EXAMPLE = "attest gate attest-out/20260101-120000 --baseline reports/baselines/power-cpu-quick.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder of the results, for instance of attest power")
    parser.add_argument("--baseline", metavar="FILE", type=Path, required=True, help="the baseline, a JSON file")
    parser.add_argument("--update", action="store_true", help="write the results as the new baseline, say what changed")


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    section = section_of(read_power(arguments.folder))
    console = output_console()
    if arguments.update:
        return _update(arguments.baseline, section, console)
    before = read_baseline(arguments.baseline)["power"]
    for sentence in told(section, before):
        _say(console, f"changed: {sentence}")
    return judge_losses(lost(section, before), section, console)


def judge_losses(trips: Sequence[Trip], section: Mapping[str, Any], console: Console) -> int:
    """Says what was lost, with the command that shows it, and returns the exit code.

    Args:
        trips: what was lost.
        section: of the results.
        console: of results.
    """
    for trip in trips:
        _say(console, f"gate: {trip.sentence}")
        _say(console, f"  {trip.command}")
    caught = sum(line.startswith("caught") for line in section["faults"].values())
    _say(console, f"gate: {len(trips)} lost" if trips else f"gate: nothing lost, {caught} faults are caught")
    return int(bool(trips))


def _update(path: Path, section: Mapping[str, Any], console: Console) -> int:
    """Writes the section into the baseline, whose other sections stay."""
    sections = read_baseline(path) if path.is_file() else {}
    if "power" in sections:
        for sentence in told(section, sections["power"]) or ["nothing"]:
            _say(console, f"changed: {sentence}")
    write_baseline(path, {**sections, "power": section})
    _say(console, f"baseline: {path}")
    return 0


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)
