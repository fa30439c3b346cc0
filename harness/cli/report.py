"""``attest report``: the page and the tables of a run."""

import argparse
from pathlib import Path

from rich.console import Console

from harness.cli.progress import output_console
from harness.power_results import has_power, read_power
from reports.power import print_power
from reports.write import write_report

__all__ = ["EXAMPLE", "HELP", "NAME", "add_arguments", "execute"]

NAME = "report"
HELP = "Write DIR/report/: index.html, CSV tables, summary.md and junit.xml; with the score of attest power."
EXAMPLE = "attest report attest-out/20260101-120000"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder of a run or of attest power")
    parser.add_argument("--power", metavar="FOLDER", type=Path, help="folder of attest power that joins the run's page")


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    console = Console(soft_wrap=True, highlight=False, emoji=False)
    power = arguments.power or (arguments.folder if has_power(arguments.folder) else None)
    if power is not None:
        print_power(read_power(power), output_console())
    console.print(str(write_report(arguments.folder, power=arguments.power)), markup=False)
    return 0
