"""``attest gate``: what got worse beside a committed baseline."""

import argparse
import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.cli.progress import output_console
from reports.gate import (
    Evidence,
    Trip,
    baseline_file,
    changes,
    known_failures,
    read_baseline,
    read_evidence,
    trips,
    write_baseline,
)

__all__ = ["EXAMPLE", "HELP", "NAME", "add_arguments", "execute", "judge_losses"]

NAME = "gate"
HELP = "Compare the results of a folder with a committed baseline; exits with 1 when something got worse."
EXAMPLE = "attest gate attest-out/20260101-120000 --baseline reports/baselines"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument(
        "folder",
        metavar="DIR",
        type=Path,
        help="results of attest run, fuzz, check, bench, power or codegen",
    )
    parser.add_argument(
        "--baseline", metavar="FILE", type=Path, required=True,
        help="the baseline, a JSON file, or a folder with one per class of devices",
    )  # fmt: skip
    parser.add_argument(
        "--known", metavar="FILE", type=Path,
        help="known failures (default: known_failures.toml beside the baseline, if it is there)",
    )  # fmt: skip
    parser.add_argument("--update", action="store_true", help="write the results as the new baseline, say what changed")


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    evidence = read_evidence(arguments.folder)
    path = baseline_file(arguments.baseline, evidence)
    console = output_console()
    if arguments.update:
        return _update(path, evidence, console)
    before = read_baseline(path)
    excuses, known = known_failures(arguments.known, path)
    found = trips(evidence, before, excuses, today=dt.datetime.now(dt.UTC).date(), known=known)
    for sentence in changes(evidence, before):
        _say(console, f"changed: {sentence}")
    compared = ", ".join(name for name in evidence.sections if name in before)
    return _tell(found, f"nothing got worse in {compared}", console)


def judge_losses(found: Sequence[Trip], section: Mapping[str, Any], console: Console) -> int:
    """Says what of the power was lost, with the command that shows it, and returns the exit code.

    Args:
        found: what was lost.
        section: ``power`` of the results.
        console: of results.
    """
    caught = sum(line.startswith("caught") for line in section["faults"].values())
    return _tell(found, f"nothing lost, {caught} faults are caught", console)


def _tell(found: Sequence[Trip], otherwise: str, console: Console) -> int:
    for trip in found:
        _say(console, f"gate: {trip.sentence}")
        _say(console, f"  {trip.command}")
    _say(console, f"gate: {len(found)} got worse" if found else f"gate: {otherwise}")
    return int(bool(found))


def _update(path: Path, evidence: Evidence, console: Console) -> int:
    """Writes the sections of the results into the baseline, whose other sections stay."""
    sections = read_baseline(path) if path.is_file() else {}
    for sentence in changes(evidence, {name: sections[name] for name in evidence.sections if name in sections}):
        _say(console, f"changed: {sentence}")
    write_baseline(path, {**sections, **evidence.sections})
    _say(console, f"baseline: {path}")
    return 0


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)
