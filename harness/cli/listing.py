"""``attest list``: operations, candidates, recipes, and what runs on this machine."""

import argparse
import json
import sys
from typing import Any

import torch
from rich.table import Table

from harness.candidates import find_candidates
from harness.cli.progress import output_console
from harness.codec import to_json
from harness.ops import OPS
from optimized.candidate import Candidate

__all__ = ["EXAMPLE", "HELP", "NAME", "add_arguments", "execute"]

NAME = "list"
HELP = "Operations, candidates and recipes; what runs on this machine and, if not, why."
EXAMPLE = "attest list --json"

_SHORT = {"float64": "fp64", "float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "tf32": "tf32"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    found = find_candidates()
    rows = [_row(candidate) for candidate in found.candidates.values()]
    if arguments.json:
        data = {"operations": list(OPS), "candidates": rows, "broken": dict(found.broken)}
        sys.stdout.write(json.dumps(data, indent=1) + "\n")
        return 0
    console = output_console()
    table = Table(
        "operation", "candidate", "storage / operand / sums", "gradients", "this machine", box=None, header_style="bold"
    )
    for row in rows:
        gradients = "yes" if row["differentiable"] else "no"
        table.add_row(row["op"], row["name"], _recipe(row["recipe"]), gradients, row["why_not"] or "runs")
    console.print(table)
    for name in OPS:
        if not any(row["op"] == name for row in rows):
            console.print(f"{name}: no candidate", markup=False)
    for name, trace in found.broken.items():
        console.print(f"plug-in {name} does not import: {trace.strip().splitlines()[-1]}", markup=False)
    return 0


def _row(candidate: Candidate) -> dict[str, Any]:
    return {
        "op": candidate.op,
        "name": candidate.name,
        "recipe": to_json(candidate.recipe),
        "differentiable": candidate.differentiable,
        "deterministic": candidate.deterministic,
        "devices": list(candidate.devices),
        "why_not": _why_not(candidate),
    }


def _why_not(candidate: Candidate) -> str | None:
    """Returns why a candidate does not run here; what one call's arguments decide is said by its ``supports``."""
    if not any(device == "cpu" or torch.cuda.is_available() for device in candidate.devices):
        return "needs a CUDA device"
    if candidate.op not in OPS:
        return f"operation {candidate.op!r} is not in the table"
    return None


def _recipe(recipe: dict[str, Any]) -> str:
    """Returns a recipe in one line: storage / operand / accumulator, and what differs from them."""
    parts = [" / ".join(_SHORT.get(recipe[name], recipe[name]) for name in ("storage", "operand", "accumulator"))]
    parts += [f"{_SHORT[recipe[name]]} {name}" for name in ("weights", "intermediates") if recipe[name]]
    return ", ".join(parts)
