"""``attest power`` and ``attest gate`` as a user types them."""

import json
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.power import catalogue
from harness.power_results import has_power, read_power
from tests.harness.power.playing import SEEDED

SMALL = ("power", "--catalogue", str(SEEDED))

WRONG: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "no-catalogue": (("power", "--catalogue", "nowhere.py"), ("--catalogue", "nowhere.py", "path of a Python file")),
    "operation": ((*SMALL, "--op", "rms_nrom"), ("'rms_nrom'", "did you mean 'rms_norm'?")),
    "operation-without-faults": ((*SMALL, "--op", "rope"), ("--op", "'rope'", "seeded faults: rms_norm")),
    "fault": ((*SMALL, "--fault", "T01"), ("--fault", "'T01'", "T001", "did you mean")),
    "fault-not-seeded": ((*SMALL, "--fault", "T999"), ("not seeded", "needs two machines")),
    "cases": ((*SMALL, "--cases", "0"), ("--cases", "'0'", "at least 1")),
    "seed": ((*SMALL, "--seed", "x"), ("--seed", "'x'")),
    "gate-without-results": (
        ("gate", "nowhere", "--baseline", "b.json"),
        ("'nowhere'", "expected a folder of attest run"),
    ),
    "gate-without-baseline": (("gate", "nowhere"), ("--baseline",)),
}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Returns the one line that a wrong command leaves, after checking that it is one and the exit code is 2."""
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(("arguments", "words"), WRONG.values(), ids=WRONG)
def test_wrong_usage_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    line = refused(capsys, *arguments)
    assert [word for word in words if word not in line] == []


CONTENTS: dict[str, tuple[str, str]] = {
    "no-faults": ("", "has no FAULTS"),
    "not-a-tuple": ("FAULTS = [1]", "expected a tuple of Fault"),
    "not-faults": ("FAULTS = (1,)", "expected a tuple of Fault"),
    "empty": ("FAULTS = ()", "expected a tuple of Fault"),
    "broken": ("raise ValueError('one\\ntwo')", "does not import"),
    "no-candidates": ("from tests.harness.power.seeded import FAULTS", "in its CANDIDATES"),
    "twice": ("from tests.harness.power.seeded import *\nFAULTS = FAULTS + FAULTS", "twice"),
}


@pytest.mark.parametrize(("content", "words"), CONTENTS.values(), ids=CONTENTS)
def test_a_file_that_is_no_catalogue_is_wrong_usage(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str, words: str
) -> None:
    path = tmp_path / "faults.py"
    path.write_text(content, encoding="utf-8")
    assert words in refused(capsys, "power", "--catalogue", str(path))


def test_without_a_checkout_a_catalogue_is_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(catalogue, "_ROOT", tmp_path)
    assert "no checkout" in refused(capsys, "power")


def test_a_folder_with_results_is_not_written_again(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "power.json").touch()
    assert "another run" in refused(capsys, *SMALL, "--out", str(tmp_path))


def test_a_reach_that_no_case_can_have_is_wrong_usage(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "faults.py"
    path.write_text(
        "from dataclasses import replace\n"
        "from tests.harness.power.seeded import CANDIDATES, FAULTS as ALL\n"
        "FAULTS = (replace(ALL[0], reach={'heads': 3}),)\n",
        encoding="utf-8",
    )
    arguments = ("power", "--catalogue", str(path), "--out", str(tmp_path / "out"), "--cases", "1", "--jobs", "1")
    assert main(arguments) == 2
    assert "reaches no case" in capsys.readouterr().err.splitlines()[-1]


def test_a_run_leaves_its_results_and_the_gate_holds_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:  # fmt: skip
    out, baseline = tmp_path / "out", tmp_path / "baseline.json"
    assert main([*SMALL, "--quick", "--cases", "2", "--jobs", "1", "--json", "--out", str(out)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert has_power(out)
    assert [item["key"] for item in printed["faults"]] == [item.key for item in read_power(out).faults]
    assert {item.outcome for item in read_power(out).faults if item.name != "same"} == {"caught", "unreached"}
    assert main(["gate", str(out), "--baseline", str(baseline), "--update"]) == 0
    assert main(["gate", str(out), "--baseline", str(baseline)]) == 0
    assert main(["report", str(out)]) == 0
