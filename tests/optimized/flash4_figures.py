"""What was read of FlashAttention 4's machine code: as a table, and against the limits of a Hopper GPU."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["SHARED_BYTES", "print_table", "report_violations"]

SHARED_BYTES = 227 * 1024
"""Shared memory that a program of a Hopper GPU may ask for."""

_COLUMNS = (
    "registers", "stack_bytes", "local_loads", "local_stores", "dynamic_shared_bytes", "warp_group_products",
    "wide_accesses", "bulk_copies",
)  # fmt: skip


def report_violations(records: Sequence[dict[str, Any]]) -> bool:
    """Says on stderr which kernel for sm_90 spills or asks for too much shared memory; returns whether one does."""
    broken = [record for record in records if record["arch"] == "sm_90" and _breaks_a_limit(record)]
    for record in broken:
        sys.stderr.write(f"violation: got {json.dumps(record)}, expected no spill and at most {SHARED_BYTES} bytes\n")
    return bool(broken)


def print_table(records: Sequence[dict[str, Any]]) -> None:
    """Prints on stderr the ranges of each kernel's figures for each head width."""
    table = Table(
        "kernel", "D/V", "variants", "registers", "stack", "LDL", "STL", "shared bytes", "HGMMA", "128-bit accesses",
        "bulk copies", box=None, header_style="bold",
    )  # fmt: skip
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["what"], f"{record['D']}/{record['V']}"), []).append(record)
    for (what, widths), found in groups.items():
        figures = (_range([record[name] for record in found]) for name in _COLUMNS)
        table.add_row(what, widths, str(len(found)), *figures)
    Console(stderr=True, width=170).print(table)


def _breaks_a_limit(record: dict[str, Any]) -> bool:
    spills = record["stack_bytes"] or record["local_loads"] or record["local_stores"]
    return bool(spills) or record["dynamic_shared_bytes"] > SHARED_BYTES


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"
