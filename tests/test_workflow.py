"""The workflow that users copy, and the sessions that they run."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORKFLOW = ROOT / "docs" / "github" / "attest.yml"
WANTED = ("attest", "tests", "lint", "types", "fuzz", "power", "bench", "report", "gate", "gpu")


def sessions() -> dict[str, str | None]:
    """Returns the docstring of every nox session by its name."""
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    return {
        node.name: ast.get_docstring(node) for node in functions if "session" in map(decorator, node.decorator_list)
    }


def decorator(node: ast.expr) -> str:
    called = node.func if isinstance(node, ast.Call) else node
    return called.attr if isinstance(called, ast.Attribute) else ""


def test_every_session_is_there_with_a_docstring() -> None:
    found = sessions()
    assert [name for name in WANTED if name not in found] == []
    assert [name for name, docstring in found.items() if not docstring] == []


def test_the_workflow_runs_sessions_that_there_are() -> None:
    text = WORKFLOW.read_text(encoding="utf-8")
    named = {name for line in re.findall(r"nox -s ([a-z0-9 ]+)", text) for name in line.split()}
    assert {"lint", "types", "tests", "attest", "gate", "gpu"} <= named
    assert named <= set(sessions())
