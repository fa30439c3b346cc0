"""The score of the judge: on a terminal, on disk and back."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from harness.errors import UsageError
from harness.power_results import PowerResults, Resolution, Share, read_power, write_power
from reports.power import print_power
from tests.reports.test_gate import results


def full() -> PowerResults:
    share = Share(name="rope", faults=3, faults_caught=2, runs=9, runs_caught=6)
    doses = Resolution(op="rope", dtype="float32", kind="gain", dose=None, median=2e-6, cases=40)
    return replace(results(), operations=[share], resolution=[doses], alarms=["twin [red]fails[/red]"], seconds=7.0)


def printed(found: PowerResults) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_power(found, console)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(" ".join(line.split()) for line in console.file.getvalue().splitlines())


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_power(tmp_path, full())
    again = read_power(tmp_path)
    assert (again.faults[0].key, again.rules[1].alarms, again.resolution[0].dose) == ("B001/rope/one/float32", 9, None)


def test_there_is_a_line_per_fault_and_dtype(tmp_path: Path) -> None:
    write_power(tmp_path, full())
    with (tmp_path / "power.csv").open(encoding="utf-8") as file:
        assert [row["outcome"] for row in csv.DictReader(file)] == ["caught", "caught", "survivor"]


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"schema": 2}), json.dumps({"schema": 1})])
def test_what_is_no_result_is_refused_in_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "power.json").write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=r"power\.json"):
        read_power(tmp_path)


def test_the_table_has_shares_rules_doses_and_what_was_missed() -> None:
    text = printed(full())
    assert "rope 3 2 66.7 9 66.7" in text
    assert "fla 0.005 3 2 66.7 9 66.7 66.7 100 9" in text
    assert "rope float32 gain \N{EN DASH} 2.00e-6 40" in text
    assert "B001/rope/hidden/float32 3 of 3" in text


def test_markup_in_a_sentence_is_printed_as_it_is() -> None:
    assert "false alarm: twin [red]fails[/red]" in printed(full())
