"""The judge judged: legal executions pass, dumb outputs and seeded faults do not, and nothing stops a campaign."""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from harness.campaign import Item, lanes
from harness.candidates import find_candidates
from harness.execute import Worker
from harness.operations.case import Case
from harness.ops import OPS
from harness.records import Record, Verdict
from harness.strategies import draw_cases
from harness.verify import Settings, verify
from optimized.candidate import Candidate
from tests.variants.campaign import LEGAL, main
from tests.variants.faults import EXPECTED, REACH

VARIANTS = Path(__file__).resolve().parents[1] / "variants"
HEALTHY, DUMB, FAULTS = (str(VARIANTS / f"{name}.py") for name in ("healthy", "dumb", "faults"))

WITHIN = 12
"""Cases within which a fault that they reach must be caught.

A case of one token or of one key can hide nearly anything; at least two of five drawn cases do not. A fault that shows
in two of five goes unseen through twelve with a probability of 0.6 ** 12, one in 460; the draw itself is fixed.
"""

LIMIT_S = 10.0
"""Seconds for a call that never ends; any other takes milliseconds, and the first one a second or two of imports."""


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(limit_s=60.0) as each:
        yield each


@cache
def plugin(path: str) -> Mapping[str, Candidate]:
    return find_candidates(path).candidates


def chosen(path: str, op: str, storage: str) -> list[Candidate]:
    return [item for item in plugin(path).values() if item.op == op and item.recipe.storage == storage]


def judged(path: str, case: Case, candidates: list[Candidate], worker: Worker) -> list[Record]:
    return verify(case, candidates, worker, Settings(plugin=path))


def small_case(storage: str = "bfloat16") -> Case:
    return OPS["rms_norm"].case.from_data({"dtype": storage, "batch": 2, "tokens": 5, "channels": 24})


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("op", sorted({item.op for item in plugin(HEALTHY).values()}))
def test_legal_executions_pass(op: str, storage: str, worker: Worker) -> None:
    cases = draw_cases(OPS[op], 3, seed_value=29, dtypes=[storage], largest=36)
    records = [record for case in cases for record in judged(HEALTHY, case, chosen(HEALTHY, op, storage), worker)]
    assert [(record.candidate, record.reason) for record in records if record.verdict not in LEGAL] == []


def test_legal_executions_are_of_many_kinds() -> None:
    assert len([*chosen(HEALTHY, "attention", "bfloat16"), *chosen(HEALTHY, "gated_delta_rule", "bfloat16")]) >= 12


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
@pytest.mark.parametrize("op", list(OPS))
def test_dumb_outputs_fail_on_every_operation(op: str, storage: str, worker: Worker) -> None:
    cases = draw_cases(OPS[op], 4, seed_value=3, dtypes=[storage], regimes=["normal"], largest=24)
    dumb = chosen(DUMB, op, storage)
    records = [record for case in cases for record in judged(DUMB, case, dumb, worker)]
    survivors = [record for record in records if not is_failed(record) and not is_right(record)]
    assert [(record.candidate, record.case) for record in survivors] == []
    assert {record.candidate for record in records if is_failed(record)} == {item.name for item in dumb}


def is_failed(record: Record) -> bool:
    return record.verdict.value.startswith("FAIL")


def is_right(record: Record) -> bool:
    """Returns whether an output is exactly the right one: zeros where every key is hidden, the value of a sole key."""
    return [item.max_error for item in record.judgements] == [0.0]


@pytest.mark.parametrize("name", [name for name, verdict in EXPECTED.items() if verdict.startswith("FAIL")])
def test_a_seeded_fault_is_caught(name: str, worker: Worker) -> None:
    candidate = plugin(FAULTS)[name]
    cases = draw_cases(OPS[candidate.op], WITHIN, seed_value=23, dtypes=[candidate.recipe.storage], largest=32)
    verdicts = (
        record.verdict.value
        for case in cases
        for record in judged(FAULTS, case.replaced(**REACH[name]), [candidate], worker)
    )
    assert EXPECTED[name] in verdicts


@pytest.mark.parametrize("name", [name for name, verdict in EXPECTED.items() if verdict in {"ERROR", "UNSUPPORTED"}])
def test_what_gives_no_result_has_a_verdict_of_its_own(name: str, worker: Worker) -> None:
    (record,) = judged(FAULTS, small_case(), [plugin(FAULTS)[name]], worker)
    assert record.verdict.value == EXPECTED[name]


def test_a_fresh_worker_follows_one_that_died(worker: Worker) -> None:
    judged(FAULTS, small_case(), [plugin(FAULTS)["rms-norm-crashes-bf16"]], worker)
    (record,) = judged(HEALTHY, small_case(), [chosen(HEALTHY, "rms_norm", "bfloat16")[0]], worker)
    assert record.verdict is Verdict.PASS


def test_a_campaign_goes_on_after_a_crash_and_a_hang() -> None:
    names = ("rms-norm-crashes-bf16", "rms-norm-hangs-bf16", "rms-norm-wrong-dtype-bf16")
    with lanes(Settings(plugin=FAULTS, limit_s=LIMIT_S), 1) as pool:
        records = list(pool.verify([Item(small_case(), names)]))
    assert [record.verdict.value for record in records] == [EXPECTED[name] for name in names]


@pytest.mark.slow
def test_a_longer_campaign_has_no_false_alarm() -> None:
    assert main(["--runs", "2000", "--seed", "1"]) == 0
