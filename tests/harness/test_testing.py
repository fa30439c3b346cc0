"""``harness.check`` and the pytest plug-in, by the example of the documentation."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import harness
from harness.errors import UsageError
from harness.records import Verdict
from harness.testing import CheckFailedError
from tests.harness.odd_candidates import CANDIDATES

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "testing.md"
BY_NAME = {item.name: item for item in CANDIDATES}


def check(name: str, *, cases: int = 3, **more: Any) -> None:
    harness.check(BY_NAME[name], op="rms_norm", cases=cases, largest=5, **more)


def failure(name: str, **more: Any) -> str:
    with pytest.raises(CheckFailedError) as caught:
        check(name, **more)
    return str(caught.value)


def test_a_right_kernel_gives_its_records() -> None:
    records = harness.check(BY_NAME["right"], op="rms_norm", cases=3, largest=5)
    assert [record.verdict for record in records] == [Verdict.PASS] * 3


def test_a_wrong_kernel_raises_with_case_explanation_and_the_line_that_runs_it_again() -> None:
    said = failure("one-percent-more")
    assert said.startswith("one-percent-more fails rms_norm: FAIL_NUMERIC\n  case: {")
    assert "worst element [" in said
    line = re.search(r"first=\['(.*)'\]\)$", said)
    assert line is not None
    assert failure("one-percent-more", cases=0, first=[line[1]]).splitlines()[1] == f"  case: {line[1]}"


def test_the_failure_is_shrunk() -> None:
    assert '"batch":1,"tokens":1,' in failure("one-percent-more")


def test_what_a_kernel_raises_is_shown_with_its_traceback() -> None:
    said = failure("raises")
    assert "ERROR" in said
    assert "ValueError: x: got a bad day" in said
    assert "odd_candidates.py" in said


def test_a_check_that_judges_nothing_fails() -> None:
    assert "was judged on none of 3 cases" in failure("refuses")


def test_what_a_kernel_leaves_in_torch_is_undone() -> None:
    check("leaves-a-mess")
    assert torch.get_default_dtype() is torch.float32
    assert torch.is_grad_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"op": "rope"}, "op: got 'rope', expected 'rms_norm'"),
        ({"op": "rms_nrom"}, "did you mean 'rms_norm'?"),
        ({"cases": 0}, "cases: got 0"),
        ({"cases": -1}, "cases: got -1"),
        ({"regimes": ["nromal"]}, "did you mean 'normal'?"),
        ({"plugin": "x.py"}, "plugin: got it beside a candidate"),
        ({"first": ['{"op":"rope","batch":1,"tokens":1,"heads":1,"width":2}']}, "first: got a case of rope"),
        ({"first": ["nonsense"]}, "case: got 'nonsense'"),
    ],
    ids=str,
)
def test_an_argument_that_makes_no_sense_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        harness.check(BY_NAME["right"], **arguments)
    assert words in str(caught.value)


def test_a_name_that_nobody_has_is_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'torch-rope-fp32'"):
        harness.check("torch-rope-fp23")


def test_what_is_no_candidate_is_refused() -> None:
    with pytest.raises(UsageError, match="got int, expected a Candidate"):
        harness.check(3)  # type: ignore[arg-type]


# -- the plug-in -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Gives a folder with the files of the documentation."""
    folder = tmp_path_factory.mktemp("project")
    for source in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL):
        name = source.splitlines()[0].removeprefix("# ")
        (folder / name).write_text(source, encoding="utf-8")
    yield folder
    shutil.rmtree(folder)


def run(folder: Path, *arguments: str) -> str:
    """Returns what pytest prints in a process of its own, where the testbench's entry point is not installed."""
    command = [sys.executable, "-m", "pytest", "-p", "no:attest", "-p", "harness.pytest_plugin", "-q", "-rA"]
    environment = {
        "PYTHONPATH": f"{ROOT}:{folder}",
        "OMP_NUM_THREADS": "1",
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
    }
    finished = subprocess.run(
        [*command, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return finished.stdout + finished.stderr


def test_the_example_of_the_documentation_and_its_failures_come_first_the_next_time(project: Path) -> None:
    arguments = ("--attest-plugin", "my_kernels.py", "--attest-cases", "4")
    said = run(project, *arguments)
    assert "3 passed, 1 failed" in said.replace("1 failed, 3 passed", "3 passed, 1 failed"), said
    assert "PASSED my_kernels.py::silu_mul[silu-mul]" in said
    assert "FAILED my_kernels.py::silu_mul[hard-silu-mul]" in said
    assert "hard-silu-mul fails silu_mul: FAIL_NUMERIC" in said
    case = re.search(r"case: (\{.*\})", said)
    assert case is not None
    assert f"again: attest replay '{case[1]}'" in said
    # Mended: what failed is judged first, with no other case before it, and is forgotten only when it passes.
    again = run(project, *arguments, "-m", "attest", "--attest-seed", "77", "-n", "2")
    assert f"case: {case[1]}" in again
    assert "1 failed" in again
    assert "1 passed" in again
    kept = list((project / ".pytest_cache").rglob("attest/*"))
    assert [case[1] in path.read_text(encoding="utf-8").replace('\\"', '"') for path in kept] == [True]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--attest-plugin", "nowhere.py"), "--attest-plugin: got "),
        (("--attest-plugin", "my_kernels.py", "--attest-cases", "0"), "--attest-cases: got 0, expected at least 1"),
    ],
)
def test_wrong_options_are_one_line(project: Path, arguments: tuple[str, ...], words: str) -> None:
    said = run(project, *arguments)
    assert f"ERROR: {words}" in said
    assert "Traceback" not in said
