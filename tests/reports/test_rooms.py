"""What the reports may import."""

import ast
from pathlib import Path

import pytest

import reports.write

ROOM = Path(reports.write.__file__).parent
ALLOWED = {"harness.records", "harness.codec", "harness.store", "harness.errors", "harness.power_results",
           "harness.alarms", "harness.pool", "harness.timing"}  # fmt: skip


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return names


@pytest.mark.parametrize("path", sorted(ROOM.glob("*.py")), ids=lambda path: path.stem)
def test_reports_read_records_and_nothing_else_of_the_testbench(path: Path) -> None:
    rooms = {"harness", "reference", "optimized", "torch", "triton"}
    assert {name for name in imported(path) if name.split(".")[0] in rooms} <= ALLOWED
