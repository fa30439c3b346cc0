"""The other faults are faults: each is reached in drawn cases, and its healthy twin is judged to be right."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.execute import Worker
from harness.operations.case import Case
from harness.ops import OPS
from harness.poison import poisoned
from harness.power.fault import Fault
from harness.strategies import draw_cases
from harness.verify import Settings, verify
from harness.worker import Call
from optimized.candidate import Candidate
from tests.faults.chunked_rule import CHUNK, KEY_TILE, Chunked
from tests.faults.norm_faults import STREAMING_MULTIPROCESSORS
from tests.faults.sequence import CANDIDATES, FAULTS, NOT_SEEDED
from tests.variants.campaign import LEGAL

Results = dict[str, Tensor | None]

PLUGIN = str(Path(__file__).with_name("sequence.py"))

CASES = 8
"""A mask with padding on its left, of more than one token, is drawn in a quarter of the cases."""

LARGEST = 32
"""Tokens; what a fault needs more of is in its ``reach``."""

REQUIRED = frozenset({
    "B037", "B040", "B044", "B046", "B047", "B049", "B050", "B052", "B053", "B055", "B056", "B058", "B059", "B061",
    "B062", "B064", "B065", "B067", "B068", "B070", "B071", "B073", "B074", "B076", "B077", "B079", "B080", "B082",
    "B083", "B088", "B090", "B091", "B092", "B093", "B094", "B095", "B096", "B097", "B098", "B099", "B100",
})  # fmt: skip
"""Real bugs that are not those of softmax attention."""

HARMLESS: Mapping[str, Mapping[str, Any]] = {
    "B037": {"group": 1},
    "B040": {"group": 1},
    "B044a": {"tokens": 9, "sequence_lengths": (9,)},
    "B044b": {"tokens": 9, "sequence_lengths": (9,)},
    "B047": {"batch": 1},
    "B049": {"key_mask": False},
    "B050": {"key_mask": False},
    "B052a": {"regime": "zero"},
    "B052b": {"rope_dim": 16},
    "B052c": {"rope_dim": 16},
    "B053b": {"qk_norm_eps": None},
    "B059": {"batch": 1, "tokens": STREAMING_MULTIPROCESSORS},
    "B061a": {"heads": 1},
    "B061b": {"heads": 1},
    "B062a": {"layout": "contiguous"},
    "B062b": {"layout": "contiguous"},
    "B064a": {"batch": 2},
    "B064b": {"batch": 2},
    "B065c": {"tokens": CHUNK},
    "B071a": {"log_decay": True},
    "B071b": {"log_decay": True},
    "B073": {"key_dim": KEY_TILE},
    "B074": {"batch": 1, "key_heads": 1, "group": 1},
    "B077": {"tokens": CHUNK},
    "B082b": {"qk_norm_eps": None},
    "B083": {"key_heads": 1, "group": 1},
    "B088a": {"channels": 16},
    "B088b": {"mask": False},
    "Y009": {"tokens": CHUNK},
}
"""Fields with which a fault makes no difference."""

PAIRS = [pytest.param(fault, storage, id=f"{fault.id}-{storage}") for fault in FAULTS for storage in fault.pairs]

TWINS = {id(healthy.load): (fault, storage) for fault in FAULTS for storage, (_, healthy) in fault.pairs.items()}
"""A fault and a storage dtype for every healthy function."""


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(limit_s=60.0) as each:
        yield each


def drawn(fault: Fault, storage: str, count: int, largest: int | None = None) -> list[Case]:
    largest = largest or min(fault.largest, LARGEST)
    cases = draw_cases(
        OPS[fault.op], count, seed_value=11, dtypes=[storage], regimes=fault.regimes or None, largest=largest
    )
    return [case.replaced(**fault.reach) for case in cases]


def results(case: Case, candidate: Candidate) -> Results:
    """Returns outputs, gradients, how many canaries died and which arguments changed."""
    row = OPS[candidate.op]
    call = Call(row, case, row.inputs(case), "cpu", with_gradients=candidate.differentiable)
    before = call.bits()
    with poisoned() as canaries:
        outputs = call.outputs(candidate.load())
        gradients = call.gradients(outputs)
    after = call.bits()
    return {
        **outputs,
        **{f"grad.{name}": item for name, item in gradients.items()},
        "canaries": torch.tensor(canaries.killed()),
        "changed": torch.tensor([after[name] != bits for name, bits in before.items()]),
    }


def is_same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def differing(case: Case, fault: Fault, storage: str) -> list[str]:
    found, expected = (results(case, candidate) for candidate in fault.pairs[storage])
    return [name for name, item in expected.items() if not is_same(found[name], item)]


def numbered(number: str) -> Fault:
    (fault,) = (each for each in FAULTS if each.id == number)
    return fault


def test_every_real_bug_is_seeded_or_excused() -> None:
    seeded = {fault.id[:4] for fault in FAULTS}
    assert REQUIRED - seeded - set(NOT_SEEDED) == set()


def test_ids_names_and_candidates_are_unique() -> None:
    assert len({fault.id for fault in FAULTS}) == len(FAULTS)
    assert len({(fault.op, fault.name) for fault in FAULTS}) == len(FAULTS)
    assert len({candidate.name for candidate in CANDIDATES}) == len(CANDIDATES)


@pytest.mark.parametrize(("fault", "storage"), PAIRS)
def test_a_fault_is_reached(fault: Fault, storage: str) -> None:
    assert any(differing(case, fault, storage) for case in drawn(fault, storage, CASES))


@pytest.mark.parametrize("fault", [pytest.param(each, id=each.id) for each in FAULTS if each.phase == "gradient"])
def test_a_fault_of_the_backward_pass_leaves_the_results_alone(fault: Fault) -> None:
    names = {output.name for output in OPS[fault.op].outputs}
    for case in drawn(fault, "bfloat16", 3):
        assert names.isdisjoint(differing(case, fault, "bfloat16"))


@pytest.mark.parametrize("number", HARMLESS)
def test_a_fault_that_is_not_reached_gives_the_bits_of_its_twin(number: str) -> None:
    fault = numbered(number)
    for case in drawn(fault, "bfloat16", 3):
        assert differing(case.replaced(**HARMLESS[number]), fault, "bfloat16") == []


@pytest.mark.parametrize(
    ("fault", "storage"), [pytest.param(*each, id=f"{each[0].id}-{each[1]}") for each in TWINS.values()]
)
def test_a_healthy_twin_passes(fault: Fault, storage: str, worker: Worker) -> None:
    for case in drawn(fault, storage, 2, largest=9):
        (record,) = verify(case, [fault.pairs[storage][1]], worker, Settings(plugin=PLUGIN))
        assert record.verdict in LEGAL, record.reason


def test_the_delta_rule_in_chunks_recalls_what_it_wrote() -> None:
    key = torch.eye(20, 24).reshape(1, 20, 1, 24)
    value = torch.randn(1, 20, 2, 8)
    out, state = Chunked().gated_delta_rule(key, key, value, None, torch.ones(1, 20, 2), scale=1.0)
    assert torch.equal(out, value)
    assert torch.equal(state[0, :, :20].transpose(0, 1), value[0])
