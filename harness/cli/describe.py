"""``attest describe``: what an operation means, how it is called, what is judged."""

import argparse
import dataclasses
import inspect

from rich.console import Console

from harness.operations.base import Operation
from harness.operations.case import Case
from harness.ops import operation

__all__ = ["EXAMPLE", "HELP", "NAME", "add_arguments", "execute"]

NAME = "describe"
HELP = "Definition, call, shapes, regimes, outputs and gradients of an operation."
EXAMPLE = "attest describe gated_delta_rule"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("op", metavar="OP", help="operation, see attest list")


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    row = operation(arguments.op)
    console = Console(soft_wrap=True, markup=False, highlight=False, emoji=False)
    console.print(row.call, style="bold")
    console.print()
    console.print(inspect.getdoc(row.reference) or "")
    console.print()
    for output in row.outputs:
        kept = "float32 where the storage is a 16-bit format" if output.wide else "storage dtype"
        console.print(f"output {output.name} ({', '.join(output.axes)}): {kept}")
    gradients = ", ".join(_gradients(row)) or "none"
    console.print(f"gradients judged: {gradients}")
    console.print(f"regimes: {', '.join(row.case.regimes)}")
    if row.directions:
        console.print(f"errors are also looked for along: {', '.join(row.directions)}")
    console.print("case fields:")
    own = {field.name for field in dataclasses.fields(Case)}
    for field in dataclasses.fields(row.case):
        default = "" if field.default is dataclasses.MISSING else f" = {field.default!r}"
        name = field.type.__name__ if isinstance(field.type, type) else str(field.type)
        note = "  (every operation)" if field.name in own else ""
        console.print(f"  {field.name}: {name}{default}{note}")
    return 0


def _gradients(row: Operation) -> list[str]:
    names = [name for name in row.axes if name not in row.constant and name != "positions"]
    return [*names, "every parameter"] if row.is_layer else names
