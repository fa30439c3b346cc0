"""Every relation turns red on a fault that no other check sees, stays green without it, and knows its power."""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.candidates import find_candidates
from harness.cases import case_from_data
from harness.execute import Answer, Worker
from harness.operations.case import Case
from harness.ops import operation
from harness.records import Judgement, Record, Relation, Verdict
from harness.relations.check import FRESH, applicable, check_relations, chosen
from harness.relations.exact import EXACT
from harness.relations.rewrites import REWRITES
from harness.relations.tokens import TOKENS
from harness.truth import GRAD
from harness.verify import Settings, verify
from optimized.candidate import Candidate
from tests.harness.relations.broken import BREAKS
from tests.variants.correct import correct

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
    "hidden_tokens": {"key_mask": True},
    "one_cotangent": {"window_right": 0},
    "rule_sequences_apart": {"batch": 1, "tokens": 9, "sequence_lengths": (4, 0, 5)},
}


SEEDS = (3, 17, 38)
"""Seeds that change another token each."""


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(limit_s=60.0) as each:
        yield each


def case_of(relation: str, seed: int) -> Case:
    op, _ = BREAKS[relation]
    data = {"op": op, "dtype": "float32", "seed": seed, **SHAPES[op], **OWN.get(relation, {})}
    return case_from_data({name: list(value) if isinstance(value, tuple) else value for name, value in data.items()})


@cache
def plugin() -> Mapping[str, Candidate]:
    return find_candidates(PLUGIN).candidates


def judged(name: str, case: Case, worker: Worker, relations: str) -> Record:
    (record,) = verify(case, [plugin()[name]], worker, Settings(plugin=PLUGIN, relations=relations))
    return record


def outcomes(kind: str, relation: str, worker: Worker) -> list[Relation]:
    """Returns what the relation says on the seeds that the rest of the judge passes."""
    records = [
        judged(f"{kind}-{relation.replace('_', '-')}", case_of(relation, seed), worker, relation) for seed in SEEDS
    ]
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


ANY = Judgement(output="out", verdict=Verdict.PASS)


def said(relation: str, other: Mapping[str, Tensor] | None = None) -> Relation:
    """Returns what a relation says of a candidate that returns the same whatever it is given."""
    case = case_of(relation, 3)
    row = operation(case.op)
    inputs = row.inputs(case)
    args, kwargs = row.arrange(inputs.tensors, inputs.options)
    first = other or row.named(correct(case.op, "float32").load()(*args, **kwargs))
    same = Answer("ok", {}, first)
    (found,) = check_relations(case, inputs, same, lambda _: same, lambda _, __: ANY, [relation])
    return found


@pytest.mark.parametrize("relation", sorted({*REWRITES, *TOKENS} - {"one_cotangent"}))
def test_of_a_candidate_that_ignores_its_input_nothing_is_known(relation: str) -> None:
    assert said(relation).verdict is Verdict.NO_POWER


def test_gradients_of_zero_show_no_leak() -> None:
    zeros = {"out": torch.zeros(2, 10, 4, 8), **{GRAD + name: torch.zeros(2, 10, 2, 8) for name in ("key", "value")}}
    assert said("one_cotangent", zeros).verdict is Verdict.NO_POWER


def test_zeros_do_not_show_that_values_scale_or_writes_stop() -> None:
    zeros = {"out": torch.zeros(2, 7, 4, 8)}
    assert {said(name, zeros).verdict for name in ("values_doubled", "beta_of_zero")} == {Verdict.NO_POWER}


def test_a_sole_key_has_all_weight_anyway(worker: Worker) -> None:
    sole = case_of("one_key_with_weight", 0).replaced(key_tokens=1, query_tokens=1)
    record = judged("keeps-one-key-with-weight", sole, worker, "one_key_with_weight")
    assert [item.verdict for item in record.relations if item.name == "one_key_with_weight"] == [Verdict.NO_POWER]


def test_bits_that_differ_from_run_to_run_within_the_budget_are_no_failure() -> None:
    noisy = iter([torch.full((3, 5, 24), 1 + 2.0**-20 * each) for each in range(9)])
    case = case_of("not_a_number_elsewhere", 3)
    inputs = operation(case.op).inputs(case)

    def again(_: str) -> Answer:
        return Answer("ok", {}, {"out": next(noisy)})

    (found,) = check_relations(case, inputs, again(""), again, lambda _, __: ANY, ["not_a_number_elsewhere"])
    assert (found.verdict, "twice" in found.reason) == (Verdict.NO_POWER, True)


def test_a_fresh_process_is_a_new_one(worker: Worker) -> None:
    case = case_of("run_twice", 3)
    record = judged("keeps-run-twice", case, worker, FRESH)
    (found,) = (item for item in record.relations if item.name == FRESH)
    assert (found.verdict, found.reason) == (Verdict.PASS, "the same bits")


def test_some_cases_are_checked_by_one_relation_and_the_seed_decides() -> None:
    cases = [case_of("heads_permuted", seed) for seed in range(400)]
    names = [chosen(case, "some") for case in cases]
    assert {len(each) for each in names} == {0, 1}
    assert {name for each in names for name in each} == set(applicable(cases[0]))


@pytest.mark.parametrize("fields", [
    {"window_right": 0}, {"window_left": 0, "window_right": 0}, {"window_left": 3, "window_right": 0},
    {"window_left": 0}, {"window_right": 0, "key_mask": True}, {"window_right": 0, "query_tokens": 12},
], ids=str)  # fmt: skip
def test_no_relation_takes_a_window_of_nothing_for_no_window(fields: Mapping[str, Any], worker: Worker) -> None:
    case = case_from_data({"op": "attention", "dtype": "float32", "seed": 5, **SHAPES["attention"], **fields})
    candidate = find_candidates(None).candidates["torch-attention-fp32"]
    # The rewrites alone: a fresh process costs seconds and knows no windows.
    record = verify(case, [candidate], worker, Settings(limit_s=60.0, relations=",".join(REWRITES)))[0]
    assert [item.reason for item in record.relations if item.verdict.is_failure] == []
