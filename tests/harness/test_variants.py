"""The judge judged: legal executions pass, dumb outputs and seeded faults do not, and nothing stops a campaign."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path

import pytest

from harness.campaign import Item, lanes
from harness.candidates import find_candidates
from harness.execute import Worker
from harness.operations.base import Inputs, Operation
from harness.operations.case import Case
from harness.ops import OPS
from harness.records import Record, Verdict
from harness.strategies import draw_cases
from harness.verify import Settings, verify
from harness.wire import raw_bytes
from harness.worker import Call, prepare
from optimized.candidate import Candidate
from tests.variants.campaign import DRAWN, LEGAL, main, planned
from tests.variants.degenerate import KINDS, directed
from tests.variants.faults import EXPECTED, REACH
from tests.variants.tally import Seen, Tally

VARIANTS = Path(__file__).resolve().parents[1] / "variants"
HEALTHY, DUMB, FAULTS = (str(VARIANTS / f"{name}.py") for name in ("healthy", "dumb", "faults"))

WITHIN = 12
"""Cases within which a fault that they reach must be caught.

A case of one token or of one key can hide nearly anything; at least two of five drawn cases do not. A fault that shows
in two of five goes unseen through twelve with a probability of 0.6 ** 12, one in 460; the draw itself is fixed.
"""

DIFFERENT = 8
"""Cases among which two executions must differ somewhere in fp32."""

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
    (case,) = draw_cases(OPS[op], 20, seed_value=29, dtypes=[storage], largest=20)[-1:]
    records = judged(HEALTHY, case, chosen(HEALTHY, op, storage), worker)
    assert [(record.candidate, record.reason) for record in records if record.verdict not in LEGAL] == []


@pytest.mark.parametrize(("op", "least"), [
    ("attention", 12), ("gated_delta_rule", 12), ("rms_norm", 12), ("rope", 12), ("short_conv", 12),
    ("varlen_attention", 6), ("gated_rms_norm", 6), ("l2_norm", 6), ("silu_mul", 6), ("mamba_decay", 6),
    ("log_sigmoid_decay", 6), ("low_rank_projection", 3), ("flash_sdpa", 3), ("grouped_query_attention", 3),
    ("multi_head_latent_attention", 3), ("gated_delta_net", 3),
])  # fmt: skip
def test_legal_executions_differ_in_bits_from_each_other(op: str, least: int) -> None:
    # In float32 the differences of a few units are not rounded away.
    cases = draw_cases(OPS[op], 40, seed_value=7, dtypes=["float32"], regimes=["normal"], largest=130)[-DIFFERENT:]
    prepared = [prepare(case.to_data()) for case in cases]
    results = [bits_of(item, prepared) for item in chosen(HEALTHY, op, "float32")]
    assert len(set(results)) == len(results) >= least


def bits_of(candidate: Candidate, prepared: list[tuple[Operation, Case, Inputs]]) -> str:
    """Returns a digest of all that an execution returns on some cases, gradients included."""
    digest = hashlib.sha256()
    function = candidate.load()
    for row, case, inputs in prepared:
        call = Call(row, case, inputs, "cpu", with_gradients=True)
        outputs = call.outputs(function)
        for tensor in (*outputs.values(), *call.gradients(outputs).values()):
            digest.update(b"none" if tensor is None else raw_bytes(tensor.detach()))
    return digest.hexdigest()


@pytest.mark.parametrize("op", list(KINDS))
def test_a_degenerate_case_is_made_of_any_drawn_one(op: str) -> None:
    drawn = draw_cases(OPS[op], 12, seed_value=5, largest=24)
    made = [directed(case, number) for number, case in enumerate(drawn)]
    assert {number: OPS[op].inputs(case).tensors.keys() for number, case in enumerate(made)}.keys() == set(range(12))


def test_every_operation_with_healthy_variants_has_degenerate_kinds() -> None:
    assert {item.op for item in plugin(HEALTHY).values()} == set(KINDS)


def test_one_case_in_five_of_a_campaign_is_degenerate() -> None:
    work = list(islice(planned(chosen(HEALTHY, "rope", "float32"), seed=3, largest=16), 50))
    assert [kind != DRAWN for _, kind in work].count(True) == 10


def test_runs_of_a_file_are_not_missing_any_more(tmp_path: Path) -> None:
    record = Seen(op="rope", storage="float32", kind=DRAWN, candidate="a", case_id="1", verdict="PASS", worst=0.5)
    Tally(tmp_path / "runs").add(record)
    Tally(tmp_path / "runs").add(replace(record, candidate="b"))
    tally = Tally(tmp_path / "runs")
    assert (tally.missing("1", ["a", "b", "c"]), tally.missing("2", ["a"])) == (("c",), ("a",))


def test_a_campaign_says_how_many_runs_and_how_many_false_alarms(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--runs", "6", "--op", "silu_mul", "--largest", "8", "--jobs", "1"])
    assert (code, "6 runs, 0 false alarms" in capsys.readouterr().out) == (0, True)


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
    assert main(["--runs", "4000", "--seed", "1"]) == 0
