"""``attest report``: the page and the tables of a store."""

import argparse
from pathlib import Path

from rich.console import Console

from reports.write import write_report

__all__ = ["EXAMPLE", "HELP", "NAME", "add_arguments", "execute"]

NAME = "report"
HELP = "Write DIR/report/: index.html, CSV tables, summary.md and junit.xml."
EXAMPLE = "attest report attest-out/20260101-120000"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder of a run")


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    Console(soft_wrap=True, highlight=False, emoji=False).print(str(write_report(arguments.folder)), markup=False)
    return 0
