"""The committed suite of past failures is readable, and a line that is not is refused in one sentence."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import main
from harness.errors import UsageError
from harness.ops import OPS
from harness.suites import PAST, read_past, suite
from tests.harness.searching import NORM

LINE: dict[str, Any] = {"case": NORM, "why": "fp32 rms_norm: ratio 1.02", "found": "2026-11-26"}


def test_every_committed_case_is_valid_and_says_why_it_is_there() -> None:
    entries = read_past()
    assert entries
    assert [entry for entry in entries if len(entry.why) < 10] == []


def test_every_committed_case_is_in_the_suite_of_its_operation() -> None:
    assert sum(len(suite("past", row)) for row in OPS.values()) == len(read_past())


def test_the_committed_file_comes_with_the_package() -> None:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert PAST.parent.name == "corpus"
    assert 'harness = ["corpus/*.jsonl"]' in project


def test_a_past_case_is_read_with_its_reason_and_its_day(tmp_path: Path) -> None:
    path = tmp_path / "past.jsonl"
    path.write_text(json.dumps(LINE) + "\n\n", encoding="utf-8")
    (entry,) = read_past(path)
    assert (entry.case.to_data() | NORM, entry.why, entry.found.isoformat()) == (
        entry.case.to_data(), LINE["why"], LINE["found"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("{", ("line 1", "not JSON"), id="broken-line"),
        pytest.param("3", ("line 1", "int", "expected an object"), id="no-object"),
        pytest.param({"wy": "x"}, ("line 1", "'wy'", "did you mean 'why'?"), id="unknown-field"),
        pytest.param('{"case":{}}', ("line 1", "got no why, found"), id="missing-fields"),
        pytest.param({"case": {**NORM, "chanels": 3}}, ("'chanels'", "did you mean 'channels'?"), id="field-of-case"),
        pytest.param({"case": {"op": "rms_nrom"}}, ("did you mean 'rms_norm'?",), id="operation"),
        pytest.param({"why": " "}, ("why", "expected a sentence"), id="no-reason"),
        pytest.param({"found": "yesterday"}, ("found", "'yesterday'", "expected a day"), id="no-day"),
        pytest.param({"found": 3}, ("found", "got 3", "expected a day"), id="day-no-text"),
        pytest.param(json.dumps(LINE) + "\n" + json.dumps(LINE), ("case 2", "a second time"), id="twice"),
    ],
)
def test_a_wrong_line_is_refused_in_one_sentence(
    tmp_path: Path, text: str | dict[str, Any], words: tuple[str, ...]
) -> None:
    path = tmp_path / "past.jsonl"
    path.write_text(text if isinstance(text, str) else json.dumps({**LINE, **text}), encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        read_past(path)
    assert [word for word in (str(path), *words) if word not in str(caught.value)] == []


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a file of cases"):
        read_past(tmp_path / "nothing.jsonl")


def test_an_operation_without_a_past_case_is_wrong_usage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.suites.read_past", tuple)
    assert main(["check", "--suite", "past", "--op", "rms_norm"]) == 2
    assert "past" in capsys.readouterr().err
