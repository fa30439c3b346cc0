"""What the documents say is so: links lead somewhere, commands exist, the README's example does what it claims."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli.main import build_parser
from harness.records import Verdict

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def set_up_commands() -> list[str]:
    return re.findall(r"^python3 -m venv .*$", text("README.md"), flags=re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """Returns the anchors that headings get: lower case, spaces as dashes, other signs dropped."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_to_a_file_and_heading(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", document.read_text(encoding="utf-8"))
    dead = []
    for link in links:
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []


def test_ci_runs_the_readme_s_test_command_word_for_word() -> None:
    (command,) = [line for line in set_up_commands() if line.endswith("-s tests")]
    assert command in text(".ci/run")


def test_the_readme_s_first_command_is_the_main_job() -> None:
    assert set_up_commands()[0].endswith("nox -s attest -- run --profile quick")


def test_every_command_is_in_the_interface_s_table_and_no_other() -> None:
    subparsers = next(action for action in build_parser()._actions if action.dest == "command")
    assert subparsers.choices is not None
    assert set(re.findall(r"^\| `attest (\w+)", text("docs/interface.md"), flags=re.MULTILINE)) == set(
        subparsers.choices
    )


def test_the_layers_of_the_example_run(tmp_path: Path) -> None:
    (source,) = re.findall(r"```python\n(# my_block.py\n.*?)```", text("docs/layers.md"), flags=re.DOTALL)
    program = tmp_path / "my_block.py"
    program.write_text(source + "print(tuple(hidden_states.shape), bool(hidden_states.isfinite().all()))\n", "utf-8")
    finished = subprocess.run(
        [sys.executable, str(program)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, check=False, timeout=300,
    )  # fmt: skip
    assert finished.stdout.split("\n")[0] == "(1, 64, 128) True", finished.stderr


def test_the_readme_s_right_kernel_passes_and_its_wrong_one_fails(tmp_path: Path) -> None:
    (source,) = re.findall(r"```python\n(# my_kernel.py\n.*?)```", text("README.md"), flags=re.DOTALL)
    plugin = tmp_path / "my_kernel.py"
    plugin.write_text(source, encoding="utf-8")
    command = ["fuzz", "--op", "rms_norm", "--plugin", str(plugin), "--cases", "14", "--jobs", "1", "--json"]
    finished = subprocess.run(
        [sys.executable, "-m", "harness", *command, "--out", str(tmp_path / "out")],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert finished.returncode == 1, finished.stderr
    records = [json.loads(line) for line in finished.stdout.splitlines()]
    failed = {record["candidate"] for record in records if Verdict(record["verdict"]).is_failure}
    assert failed == {"mine-wrong"}
