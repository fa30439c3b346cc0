"""The plug-ins of peers as such: they load without the peers, and what is missing is declined by name."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.candidates import load_plugin
from harness.operations.case import Case
from harness.ops import OPS
from harness.records import Judgement, Record, Verdict
from harness.strategies import draw_cases
from optimized.candidate import Candidate
from tests.peers import peer
from tests.peers.campaign import replays
from tests.peers.findings import findings
from tests.peers.page import page
from tests.peers.plan import FIXED, planned, sentence
from tests.peers.projects import PROJECTS, plugin_of, project_of
from tests.peers.readings import KINDS, READINGS

ROOT = Path(__file__).resolve().parents[2]

every_project = pytest.mark.parametrize("project", PROJECTS)


def candidates(project: str) -> list[Candidate]:
    return list(load_plugin(str(ROOT / plugin_of(project))))


def case_of(candidate: Candidate) -> Case:
    return draw_cases(OPS[candidate.op], 1, seed_value=0, dtypes=[candidate.recipe.storage], largest=4)[0]


@every_project
def test_a_missing_project_is_declined_by_name_and_loads_all_the_same(
    project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "_is_installed", lambda _: False)
    for candidate in candidates(project):
        assert callable(candidate.load())
        said = sentence(candidate, OPS[candidate.op], case_of(candidate))
        assert said is not None
        assert "not installed" in said


@every_project
def test_the_names_of_a_plug_in_begin_with_its_project(project: str) -> None:
    found = candidates(project)
    assert found
    assert {project_of(candidate.name) for candidate in found} == {project}


def test_there_are_more_than_forty_candidates_of_five_projects() -> None:
    names = {candidate.name for project in PROJECTS for candidate in candidates(project)}
    assert len(PROJECTS) == 5
    assert len(names) > 40


def test_every_fixed_field_belongs_to_a_candidate_that_exists() -> None:
    import fnmatch

    names = [candidate.name for project in PROJECTS for candidate in candidates(project)]
    assert [pattern for pattern in FIXED if not fnmatch.filter(names, pattern)] == []


def test_every_reading_belongs_to_a_candidate_that_exists_and_is_of_a_known_kind() -> None:
    import fnmatch

    names = [candidate.name for project in PROJECTS for candidate in candidates(project)]
    assert [reading for reading in READINGS if not fnmatch.filter(names, reading.candidate)] == []
    assert {reading.kind for reading in READINGS} <= set(KINDS)


def test_the_interpreter_is_not_asked_for_bfloat16() -> None:
    said = peer.interpreted(torch.zeros(1, dtype=torch.bfloat16))
    assert said is not None
    assert "interpreter" in said
    assert peer.interpreted(torch.zeros(1)) is None


def test_a_peer_is_judged_on_cases_that_it_takes_and_one_that_it_declines() -> None:
    chosen = [item for item in candidates("torch") if item.name == "torch-rms-norm-fp32"]
    items = planned(chosen, cases=3, seed=0)
    declined = [sentence(chosen[0], OPS["rms_norm"], item.case) is not None for item in items]
    assert sorted(declined) == [False, False, False, True]


def test_plug_ins_import_no_peer() -> None:
    importlib.import_module("tests.peers.transformers_peers")
    source = (ROOT / plugin_of("transformers")).read_text(encoding="utf-8")
    assert "import transformers" not in source


def record(**changes: Any) -> Record:
    """Returns a record of a failing candidate of fla."""
    judged = Judgement(output="out", verdict=Verdict.FAIL_NUMERIC, reason="out: off")
    given: dict[str, Any] = {
        "case": {"op": "mamba_decay", "tokens": 3}, "case_id": "0", "candidate": "fla-kda-gate-fp32", "recipe": {},
        "verdict": Verdict.FAIL_NUMERIC, "reason": "out: off", "environment": {}, "seed": 0, "started": "",
        "judgements": [judged],
    }  # fmt: skip
    return Record(**{**given, **changes})


def test_the_page_shows_the_smallest_case_its_reading_and_the_line_that_runs_it_again() -> None:
    larger = record(case={"op": "mamba_decay", "tokens": 300})
    text = page([larger, record()], command="nox -s peers", versions={"torch": "2"})
    assert "**`fla-kda-gate-fp32`, out** (FAIL_NUMERIC, 2 cases): out: off" in text
    assert "Our reading: bug." in text
    assert '"tokens":3}' in text
    assert "--plugin tests/peers/fla_peers.py" in text
    assert '"tokens":300' not in text


def test_a_failure_without_a_reading_says_so() -> None:
    assert "Our reading: none yet." in page([record(candidate="fla-other-fp32")], command="", versions={})


def test_a_line_that_does_not_fail_again_is_told() -> None:
    passing = {"op": "rms_norm", "batch": 1, "tokens": 2, "channels": 8, "dtype": "float32"}
    found = findings([record(candidate="torch-rms-norm-fp32", case=passing)])
    assert replays(found, jobs=1) == found
