"""``attest merge``: joins the stores of several machines, or the shards of one run."""

import argparse
from pathlib import Path

from harness.cli.options import new_folder
from harness.cli.progress import exit_code, output_console
from harness.errors import UsageError
from harness.merge import merge
from harness.store import read_run
from reports.terminal import print_summary

__all__ = ["EXAMPLE", "HELP", "NAME", "add_arguments", "execute"]

NAME = "merge"
HELP = "Join the stores of several machines, or the shards of one run, into one."
EXAMPLE = "attest merge attest-out/shard-1 attest-out/shard-2 --out attest-out/whole"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("folders", metavar="DIR", type=Path, nargs="+", help="folders of runs of the same command")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the whole (default attest-out/<time>)")


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    twice = [str(folder) for folder in arguments.folders if arguments.folders.count(folder) > 1]
    if twice:
        raise UsageError(f"merge: got {twice[0]} twice, expected every folder once")
    folder = new_folder(arguments.out)
    merged = merge(arguments.folders, folder)
    console = output_console()
    for sentence in merged.disagreements:
        console.print(f"disagreement: {sentence}; the gravest is kept", markup=False, soft_wrap=True)
    if merged.repeated:
        console.print(f"left out: {merged.repeated} records of cases that another folder holds too", markup=False)
    if merged.missing:
        console.print(f"missing: shard {', '.join(str(shard) for shard in merged.missing)}", markup=False)
    print_summary(merged.records, console)
    console.print(f"records: {folder}", markup=False, soft_wrap=True)
    if read_run(folder)["command"] == "run":
        console.print(
            f"attest run --resume {folder} runs what is missing, shrinks failures and writes the report",
            markup=False, soft_wrap=True,
        )  # fmt: skip
    return exit_code(merged.records)
