r"""Imports go one way: every file is parsed, and an import upwards or sideways fails.

```
reference      optimized          know nothing of each other, nor of anything above
      \          /
       harness                    records, store and errors inside it are leaves
          |
       reports                    reads records, runs without torch
          |
  harness.cli, harness.__main__   the roof: the only place that joins everything
```
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("reference", "optimized", "harness", "reports", "tests")
LEAVES = ("harness.records", "harness.codec", "harness.store", "harness.errors", "harness.power_results",
          "harness.alarms", "harness.pool", "harness.timing")  # fmt: skip
ROOF = ("harness.cli", "harness.__main__")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What the modules under a prefix may import; the first rule of a module counts.

    Attributes:
        modules: dotted prefixes of the modules that the rule is for.
        ours: dotted prefixes of the project's own modules that they may import.
        others: third-party packages that they may import; None means any.
        never: dotted prefixes that they may not import although ``ours`` would allow it.
    """

    modules: tuple[str, ...]
    ours: tuple[str, ...]
    others: tuple[str, ...] | None
    never: tuple[str, ...] = ()


RULES = (
    Rule(modules=("reference",), ours=("reference",), others=("torch",)),
    Rule(modules=("optimized.candidate",), ours=(), others=()),
    Rule(modules=("optimized",), ours=("optimized",), others=("torch", "triton", "flash_attn", "numpy", "pydantic")),
    Rule(modules=LEAVES, ours=LEAVES, others=()),
    Rule(modules=ROOF, ours=("harness", "optimized.candidate", "reports", "reference"), others=None),
    Rule(
        modules=("harness.emulators",),
        ours=("harness.emulators", "harness.errors", "optimized.candidate"),
        others=("torch",),
    ),
    Rule(modules=("harness",), ours=("harness", "reference", "optimized.candidate"), others=None, never=ROOF),
    Rule(modules=("reports",), ours=("reports", *LEAVES), others=("jinja2", "markupsafe", "pandas", "rich")),
)


def under(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def module_name(root: Path, path: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(root: Path, path: Path) -> Iterator[str]:
    """Yields the dotted names that a file imports, inside functions too, and by ``import_module("literal")``.

    ``from a import b`` gives ``a.b`` where that is a module of the tree, else ``a``.
    """
    package = path.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*above, *filter(None, [node.module])))
            for alias in node.names:
                place = root.joinpath(*base.split("."), alias.name)
                is_module = place.is_dir() or place.with_suffix(".py").is_file()
                yield f"{base}.{alias.name}" if is_module else base
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"import_module", "__import__"}:
                yield str(node.args[0].value)


def is_allowed(name: str, rule: Rule) -> bool:
    top = name.partition(".")[0]
    if top in ROOMS:
        return under(name, rule.ours) and not under(name, rule.never)
    return rule.others is None or top in rule.others or top in sys.stdlib_module_names


def violations(root: Path) -> list[str]:
    """Returns ``"module imports name"`` for every import that the rules forbid."""
    found = []
    for path in sorted(path for room in ROOMS[:-1] for path in (root / room).rglob("*.py")):
        module = module_name(root, path)
        rule = next(rule for rule in RULES if under(module, rule.modules))
        found += [f"{module} imports {name}" for name in sorted(set(imports(root, path))) if not is_allowed(name, rule)]
    return found


def test_imports_go_one_way() -> None:
    assert violations(ROOT) == []


def test_every_room_is_there_to_be_checked() -> None:
    assert [room for room in ROOMS if not list((ROOT / room).rglob("*.py"))] == []


def planted(root: Path, place: str, source: str) -> list[str]:
    """Returns the violations of a small tree that holds one file of interest."""
    for name in ("harness/budget.py", "harness/records.py", "harness/cli/main.py", "optimized/candidate.py", place):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source if name == place else "", encoding="utf-8")
    return violations(root)


@pytest.mark.parametrize(
    ("place", "source", "found"),
    [
        ("reference/norm.py", "import optimized", "reference.norm imports optimized"),
        ("reference/norm.py", "import numpy", "reference.norm imports numpy"),
        ("reference/norm.py", "def f():\n    from harness import budget", "reference.norm imports harness.budget"),
        ("reference/norm.py", "from ..harness import budget", "reference.norm imports harness.budget"),
        ("optimized/norm.py", "from reference.norm import x", "optimized.norm imports reference.norm"),
        ("optimized/norm.py", "import harness.records", "optimized.norm imports harness.records"),
        ("optimized/norm.py", "import pandas", "optimized.norm imports pandas"),
        ("optimized/candidate.py", "import torch", "optimized.candidate imports torch"),
        ("harness/records.py", "import torch", "harness.records imports torch"),
        ("harness/records.py", "from harness import budget", "harness.records imports harness.budget"),
        ("harness/emulators/norm.py", "import reference", "harness.emulators.norm imports reference"),
        ("harness/draw.py", "import optimized.norm", "harness.draw imports optimized.norm"),
        ("harness/draw.py", "import reports.write", "harness.draw imports reports.write"),
        ("harness/draw.py", "from harness.cli import main", "harness.draw imports harness.cli.main"),
        ("harness/draw.py", "from harness import cli", "harness.draw imports harness.cli"),
        ("harness/draw.py", "import_module('reports.write')", "harness.draw imports reports.write"),
        ("harness/draw.py", "import tests.draws", "harness.draw imports tests.draws"),
        ("reports/page.py", "from harness.budget import x", "reports.page imports harness.budget"),
        ("reports/page.py", "import torch", "reports.page imports torch"),
        ("harness/cli/run.py", "import optimized.norm", "harness.cli.run imports optimized.norm"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, place: str, source: str, found: str) -> None:
    assert planted(tmp_path, place, source) == [found]


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("reference/norm.py", "import math\nimport torch.nn.functional\nfrom reference.checks import x"),
        ("optimized/norm.py", "import triton.language\nfrom optimized.candidate import Recipe"),
        ("harness/draw.py", "import reference\nimport hypothesis\nfrom optimized.candidate import Recipe"),
        ("harness/cli/run.py", "from reports.write import write_report\nfrom harness import budget"),
        ("reports/page.py", "import pandas\nfrom harness.records import Record"),
    ],
)
def test_a_legal_import_is_no_violation(tmp_path: Path, place: str, source: str) -> None:
    assert planted(tmp_path, place, source) == []


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("reports.write", ("torch", "triton", "reference", "optimized")),
        ("optimized.catalogue", ("triton", "torch", "flash_attn")),
        ("optimized.candidate", ("triton", "torch", "numpy")),
        ("harness.records", ("torch", "triton", "reference", "optimized")),
        ("harness.store", ("torch", "pandas", "optimized")),
        ("reference", ("triton", "optimized", "harness")),
    ],
)
def test_importing_a_module_loads_nothing_that_it_has_no_use_for(module: str, unwanted: tuple[str, ...]) -> None:
    program = f"import sys, {module}; print(*sorted(set({unwanted!r}) & set(sys.modules)))"
    finished = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stdout) == (0, "\n"), finished.stderr
