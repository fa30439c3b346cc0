"""Every relation turns red on a fault that no other check sees, stays green without it, and knows its power."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.candidates import find_candidates
from harness.cases import case_from_data
from harness.execute import Worker
from harness.operations.case import Case
from harness.records import Record, Relation, Verdict
from harness.relations.check import applicable, chosen
from harness.relations.exact import EXACT
from harness.relations.rewrites import REWRITES
from harness.verify import Settings, verify
from tests.harness.relations.broken import BREAKS

PLUGIN = str(Path(__file__).with_name("broken.py"))

SHAPES: Mapping[str, Mapping[str, Any]] = {
    "rms_norm": {"batch": 3, "tokens": 5, "channels": 24},
    "rope": {"batch": 2, "tokens": 6, "heads": 2, "width": 8},
    "attention": {
        "batch": 2, "query_tokens": 10, "key_tokens": 10, "key_heads": 2, "group": 2, "head_dim": 8, "value_dim": 8,
    },
    "varlen_attention": {
        "query_lengths": (5, 0, 7), "key_lengths": (6, 2, 7), "key_heads": 2, "group": 1, "head_dim": 8, "value_dim": 8,
    },
    "gated_delta_rule": {"batch": 2, "tokens": 7, "key_heads": 2, "group": 2, "key_dim": 8, "value_dim": 8},
}  # fmt: skip

OWN: Mapping[str, Mapping[str, Any]] = {
    "decay_of_zero": {"log_decay": False},
    "rule_sequences_apart": {"batch": 1, "tokens": 9, "sequence_lengths": (4, 0, 5)},
}


SEEDS = (3, 17, 38, 45)
"""Seeds that change another token each."""


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(limit_s=60.0) as each:
        yield each


def case_of(relation: str, seed: int) -> Case:
    op, _ = BREAKS[relation]
    data = {"op": op, "dtype": "float32", "seed": seed, **SHAPES[op], **OWN.get(relation, {})}
    return case_from_data({name: list(value) if isinstance(value, tuple) else value for name, value in data.items()})


def judged(name: str, case: Case, worker: Worker) -> Record:
    candidate = find_candidates(PLUGIN).candidates[name]
    (record,) = verify(case, [candidate], worker, Settings(plugin=PLUGIN, all_relations=True))
    return record


def outcomes(kind: str, relation: str, worker: Worker) -> list[Relation]:
    """Returns what the relation says on the seeds that the rest of the judge passes."""
    records = [judged(f"{kind}-{relation.replace('_', '-')}", case_of(relation, seed), worker) for seed in SEEDS]
    return [item for record in records for item in record.relations if item.name == relation]


def test_every_relation_has_a_fault_that_breaks_it() -> None:
    assert set(BREAKS) == {*REWRITES, *EXACT}


@pytest.mark.parametrize("relation", sorted(BREAKS))
def test_a_relation_turns_red_on_its_fault(relation: str, worker: Worker) -> None:
    assert Verdict.FAIL_RELATION in {item.verdict for item in outcomes("breaks", relation, worker)}


@pytest.mark.parametrize("relation", sorted(BREAKS))
def test_a_relation_stays_green_without_it(relation: str, worker: Worker) -> None:
    found = {item.verdict for item in outcomes("keeps", relation, worker)}
    assert Verdict.PASS in found
    assert found <= {Verdict.PASS, Verdict.NO_POWER}


def test_a_relation_whose_control_changes_nothing_has_no_power(worker: Worker) -> None:
    lone = case_of("unseen_token", 0).replaced(batch=1, tokens=1, regime="beta_zero")
    record = judged("keeps-beta-of-zero", lone.replaced(log_decay=False), worker)
    assert {item.verdict for item in record.relations if item.name == "batch_permuted"} == set()
    one_key = case_of("one_key_with_weight", 0).replaced(key_tokens=1, query_tokens=1)
    record = judged("keeps-one-key-with-weight", one_key, worker)
    (found,) = (item for item in record.relations if item.name == "one_key_with_weight")
    assert found.verdict is Verdict.NO_POWER


def test_some_cases_are_checked_by_one_relation_and_the_seed_decides() -> None:
    cases = [case_of("heads_permuted", seed) for seed in range(400)]
    names = [chosen(case, all_of_them=False) for case in cases]
    assert {len(each) for each in names} == {0, 1}
    assert {name for each in names for name in each} == set(applicable(cases[0]))
