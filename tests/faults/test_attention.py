"""The faults of attention are faults: each is reached in drawn cases, and its healthy twin is judged to be right."""

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
from tests.faults.attention import FAULTS, NOT_SEEDED
from tests.faults.flash import Flash
from tests.faults.flash_forward import TILE
from tests.variants.campaign import LEGAL

Results = dict[str, Tensor | None]

PLUGIN = str(Path(__file__).with_name("attention.py"))

CASES = 6
"""A race shows in about half of the drawn cases, a fault of one layout in a third of them."""

REQUIRED = frozenset({
    "B001", "B002", "B004", "B005", "B007", "B008", "B010", "B011", "B013", "B014", "B016", "B017", "B019", "B020",
    "B022", "B023", "B025", "B026", "B028", "B029", "B031", "B032", "B034", "B035", "B038", "B041", "B043", "B085",
    "B086", "B089",
})  # fmt: skip
"""Bugs of softmax attention in the catalogue of real bugs."""

HARMLESS: Mapping[str, Mapping[str, Any]] = {
    "B014": {"query_tokens": TILE},
    "B016": {"key_tokens": 2 * TILE},
    "B017a": {"head_dim": 64},
    "B019": {"value_dim": 32},
    "B020": {"value_dim": 32},
    "B028b": {"key_tokens": 40, "window_left": None, "window_right": None, "key_mask": False},
    "B041a": {"query_lengths": (9,), "key_lengths": (9,)},
}
"""Fields with which a fault makes no difference."""

PAIRS = [pytest.param(fault, storage, id=f"{fault.id}-{storage}") for fault in FAULTS for storage in fault.pairs]


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(limit_s=60.0) as each:
        yield each


def drawn(fault: Fault, storage: str, count: int) -> list[Case]:
    cases = draw_cases(
        OPS[fault.op], count, seed_value=11, dtypes=[storage], regimes=fault.regimes or None, largest=fault.largest
    )
    return [case.replaced(**fault.reach) for case in cases]


def results(case: Case, candidate: Candidate) -> Results:
    row = OPS[candidate.op]
    call = Call(row, case, row.inputs(case), "cpu", with_gradients=candidate.differentiable)
    with poisoned():
        outputs = call.outputs(candidate.load())
        gradients = call.gradients(outputs)
    return {**outputs, **{f"grad.{name}": item for name, item in gradients.items()}}


def is_same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def is_unlike(found: Results, expected: Results) -> bool:
    return any(not is_same(found[name], expected[name]) for name in expected)


def test_every_real_bug_of_attention_is_seeded_or_excused() -> None:
    seeded = {fault.id[:4] for fault in FAULTS}
    assert REQUIRED - seeded - set(NOT_SEEDED) == set()


def test_ids_and_names_are_unique() -> None:
    assert len({fault.id for fault in FAULTS}) == len(FAULTS)
    assert len({(fault.op, fault.name) for fault in FAULTS}) == len(FAULTS)


@pytest.mark.parametrize(("fault", "storage"), PAIRS)
def test_a_fault_is_reached(fault: Fault, storage: str) -> None:
    if fault.id == "B010b":
        pytest.skip("a kernel that is kept from one call to the next needs two calls of the same function")
    wrong, healthy = fault.pairs[storage]
    assert any(is_unlike(results(case, wrong), results(case, healthy)) for case in drawn(fault, storage, CASES))


def test_a_kernel_built_for_another_call_is_reached_by_the_second_layout() -> None:
    (fault,) = (each for each in FAULTS if each.id == "B010b")
    function = fault.pairs["float32"][0].load()
    case = drawn(fault, "float32", 1)[0]
    row = OPS[fault.op]
    outs = [
        Call(row, case.replaced(layout=layout), row.inputs(case), "cpu", with_gradients=False).outputs(function)["out"]
        for layout in ("contiguous", "transposed", "contiguous")
    ]
    assert not torch.equal(outs[0], outs[1])
    assert torch.equal(outs[0], outs[2])


@pytest.mark.parametrize("number", HARMLESS)
def test_a_fault_that_is_not_reached_gives_the_bits_of_its_twin(number: str) -> None:
    (fault,) = (each for each in FAULTS if each.id == number)
    for drawn_case in drawn(fault, "bfloat16", 3):
        case = drawn_case.replaced(**HARMLESS[number])
        wrong, healthy = fault.pairs["bfloat16"]
        assert not is_unlike(results(case, wrong), results(case, healthy))


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
@pytest.mark.parametrize("splits", [1, 2])
def test_the_healthy_flash_passes(splits: int, storage: str, worker: Worker) -> None:
    number = "B014" if splits == 1 else "B002b"
    (fault,) = (each for each in FAULTS if each.id == number)
    for case in draw_cases(OPS["attention"], 5, seed_value=31, dtypes=[storage], largest=40):
        (record,) = verify(case, [fault.pairs[storage][1]], worker, Settings(plugin=PLUGIN))
        assert record.verdict in LEGAL, record.reason


@pytest.mark.parametrize("fault", [pytest.param(fault, id=fault.id) for fault in FAULTS])
def test_a_healthy_twin_passes_where_its_fault_is_reached(fault: Fault, worker: Worker) -> None:
    storage = list(fault.pairs)[-1]
    (case,) = drawn(fault, storage, 1)
    (record,) = verify(case, [fault.pairs[storage][1]], worker, Settings(plugin=PLUGIN))
    assert record.verdict in LEGAL, record.reason


def test_the_layout_of_the_inside_is_undone() -> None:
    query, key = torch.randn(2, 5, 4, 8), torch.randn(2, 5, 2, 8)
    value = torch.eye(5, 8).expand(2, 2, 5, 8).transpose(1, 2)
    out, lse = Flash().attention(query, key, value, scale=0.5, window=(0, 0))
    assert torch.equal(out, value.repeat_interleave(2, 2))
    assert lse.shape == (2, 4, 5)
