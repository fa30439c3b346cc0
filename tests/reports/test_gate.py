"""What trips the gate, what does not, and that both are said."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.power_results import FaultScore, PowerResults, RuleScore
from reports.gate import lost, read_baseline, section_of, told, write_baseline

Section = dict[str, Any]


def fault(name: str, *, caught: int = 3, reached: int = 3, detector: str = "element") -> FaultScore:
    return FaultScore(
        key=f"B001/rope/{name}/float32", id="B001", name=name, op="rope", dtype="float32", phase="forward", what="",
        source="", detectors=("VAL",), cases=3, reached=reached, caught=caught, detector=detector if caught else "",
    )  # fmt: skip


def rule(name: str, alarms: int) -> RuleScore:
    return RuleScore(
        rule=name, runs=9, caught=6, faults=3, faults_caught=2, forward=(3, 2, 9, 6), healthy=100, alarms=alarms,
        alarms_by_dtype={"float32": (100, alarms)},
    )  # fmt: skip


def results(**asked: object) -> PowerResults:
    return PowerResults(
        asked={"profile": "quick", "cases": 6, "seed": 0, "op": None, "fault": None, **asked}, environment={},
        faults=[fault("one"), fault("two", detector="gain"), fault("hidden", caught=0)],
        rules=[rule("attest", 0), rule("fla 0.005", 9)],
    )  # fmt: skip


@pytest.fixture
def before() -> Section:
    return section_of(results())


def changed(before: Section, change: Callable[[Section], object]) -> list[str]:
    """Returns the sentences of a section that was changed."""
    now = deepcopy(before)
    change(now)
    return [trip.sentence for trip in lost(now, before)]


ONE = "B001/rope/one/float32"


def test_the_same_results_lose_nothing(before: Section) -> None:
    assert (lost(before, before), told(before, before)) == ([], [])


@pytest.mark.parametrize("outcome", ["survivor", "unreached"])
def test_a_fault_that_is_no_longer_caught_trips_with_what_from_what(before: Section, outcome: str) -> None:
    found = changed(before, lambda now: now["faults"].update({ONE: outcome}))
    assert found == [f"{ONE} is lost: was 'caught by element', is {outcome!r}"]


def test_a_fault_that_is_no_longer_seeded_trips(before: Section) -> None:
    assert "is gone" in changed(before, lambda now: now["faults"].pop(ONE))[0]


def test_a_trip_names_the_command_that_shows_it(before: Section) -> None:
    now = deepcopy(before)
    now["faults"][ONE] = "survivor"
    assert lost(now, before)[0].command == "attest power --quick --cases 6 --seed 0 --fault B001"


def test_one_false_alarm_more_of_attest_trips(before: Section) -> None:
    assert changed(before, lambda now: now["alarms"].update(attest=[1, 100])) == [
        "attest calls more healthy kernels faulty: was 0 of 100 runs, is 1 of 100"
    ]


@pytest.mark.parametrize(("alarms", "trips"), [(19, 0), (20, 1)])
def test_a_rule_of_another_project_trips_beyond_three_deviations(before: Section, alarms: int, trips: int) -> None:
    """9 alarms may become 9 + 3 * 3 + 1."""
    assert len(changed(before, lambda now: now["alarms"].update({"fla 0.005": [alarms, 100]}))) == trips


@pytest.mark.parametrize(
    "change",
    [{ONE: "caught by gain"}, {"B001/rope/hidden/float32": "caught by gain"}, {"B002/rope/new/float32": "survivor"}],
)
def test_what_is_no_loss_is_told_and_does_not_trip(before: Section, change: dict[str, str]) -> None:
    now = deepcopy(before)
    now["faults"].update(change)
    assert lost(now, before) == []
    assert len(told(now, before)) == 1


@pytest.mark.parametrize("name", ["cases", "seed", "profile"])
def test_results_of_other_cases_are_not_compared(before: Section, name: str) -> None:
    with pytest.raises(UsageError, match=name):
        lost({**before, name: 77}, before)


def test_results_of_a_part_of_the_catalogue_are_not_compared() -> None:
    with pytest.raises(UsageError, match="--op rope"):
        section_of(results(op="rope"))


def test_a_baseline_comes_back_as_it_was_written(tmp_path: Path, before: Section) -> None:
    write_baseline(tmp_path / "deep" / "baseline.json", {"power": before})
    assert read_baseline(tmp_path / "deep" / "baseline.json") == {"power": before}


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", json.dumps({"schema": 9}), json.dumps({"schema": 1, "power": {}})]
)
def test_what_is_no_baseline_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "baseline.json").write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match="--baseline"):
        read_baseline(tmp_path / "baseline.json")
