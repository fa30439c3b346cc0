"""The score of a small catalogue: what counts as a run, what is caught, and what a judge with a hole loses."""

import pytest

from harness.execute import Worker
from harness.power.catalogue import entries, load_catalogue
from harness.power.profile import subset
from harness.power.scoring import FIRST, stages
from harness.power_results import OURS, PowerResults
from harness.records import Relation
from reports.gate import lost, section_of
from tests.harness.power.playing import SEEDED, played, score


@pytest.fixture(scope="module")
def results(worker: Worker) -> PowerResults:
    return played(worker)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_fault_is_caught_on_the_first_case_that_shows_it(results: PowerResults, dtype: str) -> None:
    found = score(results, "one-percent", dtype)
    assert (found.outcome, found.reached, found.caught, found.cases_needed) == ("caught", 3, 3, 1)


def test_a_planted_equivalence_is_not_scored(results: PowerResults) -> None:
    found = score(results, "same")
    assert (found.outcome, found.cases, found.reached, found.compared) == ("unreached", 3, 0, 0)


def test_an_equivalence_counts_for_no_rule(results: PowerResults) -> None:
    reached = sum(item.compared for item in results.faults if item.name != "same")
    assert {item.runs for item in results.rules} == {reached}


def test_the_reach_of_a_fault_is_in_its_cases(results: PowerResults) -> None:
    assert score(results, "not-centered").case["zero_centered"] is True


def test_a_changed_input_is_a_fault_that_no_rule_of_another_project_sees(results: PowerResults) -> None:
    found = score(results, "input-written")
    assert found.detector == "inputs"
    assert (found.rules[OURS], found.rules["fla 0.005"], found.rules["d9d 5e-2"]) == (3, 0, 0)


def test_a_fault_of_numbers_that_raises_is_badly_seeded_and_not_caught(results: PowerResults) -> None:
    found = score(results, "raising")
    assert (found.outcome, found.broken, found.caught) == ("unreached", 3, 0)


def test_a_twin_that_several_faults_have_is_one_healthy_run_per_case(results: PowerResults) -> None:
    groups = {"one-percent": 2, "not-centered": 2}  # two sets of cases, in two dtypes
    assert {item.healthy for item in results.rules} == {3 * sum(groups.values())}


def test_a_healthy_twin_gives_no_alarm(results: PowerResults) -> None:
    assert (results.rules[0].rule, results.rules[0].alarms, list(results.alarms)) == (OURS, 0, [])


def test_the_first_output_is_enough_for_a_wrong_output(results: PowerResults) -> None:
    assert score(results, "one-percent").first[OURS] == 3


def test_known_survivors_have_the_catalogue_s_reason(results: PowerResults) -> None:
    assert score(results, "same").excuse == "it is no fault"


def test_a_judge_without_a_check_loses_its_fault_and_the_gate_trips(
    worker: Worker, results: PowerResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blind(answer: object) -> list[Relation]:  # noqa: ARG001 - it does not look
        return []

    monkeypatch.setattr("harness.verify._memory_relations", blind)
    # A second call with other inputs than the first shows it, too.
    trips = lost(section_of(played(worker, relations="none")), section_of(results))
    assert [trip.sentence for trip in trips] == [
        f"T004/rms_norm/input-written/{dtype} is lost: was 'caught by inputs', is 'survivor'"
        for dtype in ("bfloat16", "float32")
    ]


def test_all_faults_meet_the_first_cases_before_survivors_go_on() -> None:
    assert stages(200)[:2] == [(0, 2), (2, FIRST)]


@pytest.mark.parametrize("cases", [1, 2, 6, 16, 17, 200])
def test_the_stages_are_all_cases_once(cases: int) -> None:
    assert [number for start, stop in stages(cases) for number in range(start, stop)] == list(range(cases))


def test_every_fault_is_in_the_quick_part_in_a_dtype_that_no_other_fault_changes() -> None:
    faults = entries(load_catalogue(SEEDED).faults)
    some = [entry.key for entry in subset(faults[:4])]
    assert [entry.key for entry in subset(faults)][:2] == some
    assert len(subset(faults)) == len(faults) / 2
