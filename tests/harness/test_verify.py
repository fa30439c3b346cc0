"""From a worker's answer to a record: which judgements are made, when a verdict is settled, what is said."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

import harness.verify
from harness.budget import measure_budgets
from harness.cases import case_from_data
from harness.execute import Answer, Worker
from harness.judge import judge
from harness.ops import operation
from harness.records import Judgement, Record, Verdict
from harness.truth import Truth, truth
from harness.verify import HANGS, MORE, RETESTS, Settings, verify
from harness.wire import inputs_crc
from optimized.candidate import Candidate
from tests.harness.judging import ATTENTION, NORM, RULE, Example, example

MEMORY: dict[str, Any] = {"status": "ok", "changed": [], "killed_canaries": 0}
NAMES = [
    pytest.param(data, name, id=f"{data['op']}-{name}")
    for data in (ATTENTION, NORM, RULE)
    for name in example(data, "bfloat16").budgets
]


class Scripted(Worker):
    """A worker whose answers are written down."""

    def __init__(self, answers: Callable[[Mapping[str, Any]], Answer]) -> None:
        self._answers = answers
        self.hung = Counter()
        self.asked: list[Mapping[str, Any]] = []

    def ask(self, request: Mapping[str, Any]) -> Answer:
        self.asked.append(request)
        answer = self._answers(request)
        case = case_from_data(request["case"])
        made = inputs_crc(operation(case.op).inputs(case))
        return dataclasses.replace(answer, header={"inputs_crc": made, **answer.header})


def candidate(found: Example, **fields: Any) -> Candidate:
    plain: dict[str, Any] = {"name": "scripted", "op": found.case.op, "load": list, "recipe": found.recipe}
    return Candidate(**{**plain, **fields})


def answered(found: Example, tensors: Mapping[str, Tensor], **header: Any) -> tuple[Record, Scripted]:
    """Returns the record of a case whose candidate gave these tensors."""
    worker = Scripted(lambda _: Answer("ok", {**MEMORY, **header}, tensors))
    record = verify(found.case, [candidate(found)], worker, Settings(relations="none"))[0]
    return record, worker


def wrong(value: Tensor) -> Tensor:
    """Returns a value that is off where it is finite."""
    return torch.where(value.isfinite(), value * 2 + 1, value)


@pytest.mark.parametrize("data", [ATTENTION, NORM, RULE], ids=lambda data: data["op"])
def test_a_healthy_answer_passes(data: dict[str, Any]) -> None:
    found = example(data, "bfloat16")
    record, _ = answered(found, found.healthy())
    assert (record.verdict, record.reason) == (Verdict.PASS, "")


@pytest.mark.parametrize(("data", "name"), NAMES)
def test_a_fault_in_one_tensor_fires_its_judgement_and_no_other(data: dict[str, Any], name: str) -> None:
    found = example(data, "bfloat16")
    healthy = found.healthy()
    record, _ = answered(found, {**healthy, name: wrong(healthy[name])})
    fired = {item.output for item in record.judgements if item.verdict is not Verdict.PASS}
    assert fired == {name}
    assert record.verdict is Verdict.FAIL_NUMERIC
    assert record.reason.startswith(name)


@pytest.mark.parametrize("data", [ATTENTION, NORM, RULE], ids=lambda data: data["op"])
def test_every_output_and_gradient_is_judged(data: dict[str, Any]) -> None:
    found = example(data, "bfloat16")
    record, _ = answered(found, found.healthy())
    assert {item.output for item in record.judgements} == set(found.expected.expected)
    assert record.unchecked == []


def test_swapped_gradients_fail() -> None:
    found = example({**ATTENTION, "value_dim": 16}, "bfloat16")
    healthy = found.healthy()
    swapped = {**healthy, "grad:key": healthy["grad:value"], "grad:value": healthy["grad:key"]}
    fired = {item.output for item in answered(found, swapped)[0].judgements if item.verdict is not Verdict.PASS}
    assert fired == {"grad:key", "grad:value"}


def test_an_output_that_is_not_given_is_said_to_be_unchecked() -> None:
    found = example({**NORM, "op": "rms_norm"}, "bfloat16")
    rule = example(RULE, "bfloat16")
    without = {name: value for name, value in rule.healthy().items() if name == "out"}
    worker = Scripted(lambda _: Answer("ok", MEMORY, without))
    given = candidate(rule, differentiable=False)
    record = verify(rule.case, [given], worker, Settings(relations="none"))[0]
    assert record.verdict is Verdict.PASS
    assert {"final_state", "grad:query", "grad:beta", "grad:initial_state"} <= set(record.unchecked)
    assert found.case.op not in record.unchecked


def test_an_answer_without_any_output_fails() -> None:
    found = example(NORM, "bfloat16")
    worker = Scripted(lambda _: Answer("ok", MEMORY, {}))
    record = verify(found.case, [candidate(found, differentiable=False)], worker, Settings(relations="none"))[0]
    assert record.verdict is Verdict.FAIL_SHAPE


def test_a_missing_gradient_fails() -> None:
    found = example(NORM, "bfloat16")
    given = {name: value for name, value in found.healthy().items() if name != "grad:weight"}
    record, _ = answered(found, given)
    assert (record.verdict, record.reason[:11]) == (Verdict.FAIL_SHAPE, "grad:weight")


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (Answer("unsupported", {"sentence": "x: got 3, expected 4"}), Verdict.UNSUPPORTED),
        (Answer("error", {"sentence": "x: got 3, expected 4", "traceback": "Traceback"}), Verdict.ERROR),
        (Answer("crash", {"sentence": "x: got 3, expected 4"}), Verdict.ERROR),
        (Answer("timeout", {"sentence": "x: got 3, expected 4"}), Verdict.TIMEOUT),
    ],
    ids=lambda value: value.status if isinstance(value, Answer) else "",
)
def test_what_kept_a_candidate_from_being_judged_is_said(answer: Answer, verdict: Verdict) -> None:
    found = example(NORM, "bfloat16")
    record = verify(found.case, [candidate(found)], Scripted(lambda _: answer), Settings())[0]
    assert (record.verdict, record.reason) == (verdict, "x: got 3, expected 4")
    assert record.traceback == answer.header.get("traceback", "")


def test_other_inputs_than_the_reference_got_are_an_error() -> None:
    found = example(NORM, "bfloat16")
    record, _ = answered(found, found.healthy(), inputs_crc=0)
    assert (record.verdict, "made other inputs" in record.reason) == (Verdict.ERROR, True)


def test_a_candidate_that_always_hangs_is_called_three_times() -> None:
    found = example(NORM, "bfloat16")
    worker = Scripted(lambda _: Answer("timeout", {"sentence": "slow"}))
    reasons = [verify(found.case, [candidate(found)], worker, Settings())[0].reason for _ in range(HANGS + 2)]
    assert len(worker.asked) == HANGS
    assert reasons == ["slow"] * HANGS + [f"not called: it hung {count} times" for count in (HANGS, HANGS + 1)]


def test_a_sentence_of_nothing_becomes_a_reason() -> None:
    found = example(NORM, "bfloat16")
    answer = Answer("unsupported", {"sentence": ""})
    assert verify(found.case, [candidate(found)], Scripted(lambda _: answer), Settings())[0].reason == "unsupported"


def test_changed_inputs_fail_although_every_value_is_right() -> None:
    found = example(NORM, "bfloat16")
    record, _ = answered(found, found.healthy(), changed=["weight"])
    assert (record.verdict, record.reason) == (Verdict.FAIL_RELATION, "the call changed its inputs: weight")


def test_a_write_out_of_bounds_fails_although_every_value_is_right() -> None:
    found = example(NORM, "bfloat16")
    record, _ = answered(found, found.healthy(), killed_canaries=2)
    assert (record.verdict, record.reason) == (Verdict.FAIL_RELATION, "2 buffers were written outside their bounds")


def test_the_reason_is_that_of_the_gravest_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    found = example(NORM, "bfloat16")
    script(monkeypatch, [Verdict.AMBIGUOUS] * 100)
    record, _ = answered(found, found.healthy(), changed=["x"])
    assert (record.verdict, record.reason) == (Verdict.FAIL_RELATION, "the call changed its inputs: x")


# -- settling --------


def script(monkeypatch: pytest.MonkeyPatch, verdicts: list[Verdict]) -> None:
    """Makes the judgements of ``out`` these, one after the other; everything else is judged as it is."""
    left: Iterator[Verdict] = iter(verdicts)

    def judged(row: Any, name: str, *rest: Any) -> Judgement:
        if name != "out":
            return judge(row, name, *rest)
        verdict = next(left)
        return Judgement(output=name, verdict=verdict, reason="" if verdict is Verdict.PASS else "out: off")

    monkeypatch.setattr(harness.verify, "judge", judged)


def settled(monkeypatch: pytest.MonkeyPatch, verdicts: list[Verdict]) -> tuple[Record, Scripted]:
    """Returns the record of a case whose ``out`` is judged as told, case after case, each at first and remeasured."""
    found = example(NORM, "bfloat16")

    def answer(request: Mapping[str, Any]) -> Answer:
        fresh = example({**NORM, "seed": request["case"]["seed"]}, "bfloat16")
        return Answer("ok", MEMORY, fresh.healthy())

    script(monkeypatch, verdicts)
    worker = Scripted(answer)
    return verify(found.case, [candidate(found)], worker, Settings(relations="none"))[0], worker


OFF, GOOD, NEAR = Verdict.FAIL_NUMERIC, Verdict.PASS, Verdict.AMBIGUOUS


def test_an_ambiguous_case_that_passes_on_fresh_seeds_stays_ambiguous(monkeypatch: pytest.MonkeyPatch) -> None:
    record, worker = settled(monkeypatch, [NEAR, NEAR, *[GOOD] * RETESTS])
    assert record.verdict is Verdict.AMBIGUOUS
    seeds = [request["case"]["seed"] for request in worker.asked]
    assert len(set(seeds)) == len(seeds) == 1 + RETESTS
    assert [item["seed"] for item in record.retests] == seeds[1:]


@pytest.mark.parametrize("again", [NEAR, OFF], ids=str)
def test_an_ambiguous_case_that_is_off_on_a_fresh_seed_fails(monkeypatch: pytest.MonkeyPatch, again: Verdict) -> None:
    record, _ = settled(monkeypatch, [NEAR, NEAR, *[GOOD] * (RETESTS - 1), again, again])
    assert (record.verdict, "again on a fresh seed" in record.reason) == (Verdict.FAIL_NUMERIC, True)
    assert [item.verdict for item in record.judgements if item.output == "out"] == [Verdict.FAIL_NUMERIC]


def test_a_failure_is_never_retested(monkeypatch: pytest.MonkeyPatch) -> None:
    record, worker = settled(monkeypatch, [OFF, OFF])
    assert (record.verdict, len(worker.asked), record.retests) == (Verdict.FAIL_NUMERIC, 1, ())


def test_a_time_out_of_a_retest_is_no_second_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    found = example(NORM, "bfloat16")
    answers = iter([Answer("ok", MEMORY, found.healthy()), *[Answer("timeout", {"sentence": "slow"})] * RETESTS])
    script(monkeypatch, [NEAR, NEAR])
    record = verify(found.case, [candidate(found)], Scripted(lambda _: next(answers)), Settings(relations="none"))[0]
    assert record.verdict is Verdict.AMBIGUOUS


@pytest.mark.parametrize("first", [NEAR, OFF, Verdict.NO_POWER], ids=str)
def test_before_a_case_fails_its_budget_is_measured_by_more_samples(
    monkeypatch: pytest.MonkeyPatch, first: Verdict
) -> None:
    measured = []
    original = measure_budgets

    def counted(*args: Any, samples: int | None = None) -> Any:
        measured.append(samples)
        return original(*args, samples=samples)

    monkeypatch.setattr(harness.verify, "measure_budgets", counted)
    record, _ = settled(monkeypatch, [first, GOOD])
    samples = example(NORM, "bfloat16").row.samples
    assert (record.verdict, measured) == (Verdict.PASS, [samples, MORE * samples])


def test_candidates_of_one_case_share_its_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    found = example(NORM, "bfloat16")
    evaluated = []

    def counted(*args: Any, **options: Any) -> Truth:
        evaluated.append(1)
        return truth(*args, **options)

    monkeypatch.setattr(harness.verify, "truth", counted)
    both = [candidate(found, name=name) for name in ("one", "other")]
    records = verify(
        found.case, both, Scripted(lambda _: Answer("ok", MEMORY, found.healthy())), Settings(relations="none")
    )
    assert [record.candidate for record in records] == ["one", "other"]
    assert evaluated == [1]


def test_an_input_is_judged_by_the_gradients_of_what_was_given_alone() -> None:
    found = example(ATTENTION, "bfloat16")
    names = [name for name in found.budgets if name != "lse"]
    # Gradients that hold the part of the log-sum-exp's cotangent are wrong when no log-sum-exp was returned.
    record, _ = answered(found, {name: found.healthy()[name] for name in names})
    off = {item.output for item in record.judgements if item.verdict is not Verdict.PASS}
    assert off == {"grad:query", "grad:key", "grad:sinks"}


def test_a_record_says_what_it_was_made_of() -> None:
    found = example(NORM, "bfloat16")
    record, _ = answered(found, found.healthy())
    assert record.case == found.case.to_data()
    assert record.case_id == found.case.case_id
    assert record.recipe == dataclasses.asdict(found.recipe) | {"free_orders": list(found.recipe.free_orders)}
    assert record.environment["device"] == "cpu"


def test_a_missing_output_that_is_not_optional_fails() -> None:
    found = example(ATTENTION, "bfloat16")
    kept = {name: value for name, value in found.healthy().items() if name != "out"}
    record, _ = answered(found, kept)
    assert record.verdict is Verdict.FAIL_SHAPE
    assert record.reason == "out: got None, expected a tensor"


def test_inputs_that_differ_from_the_worker_s_are_a_fault_of_the_testbench() -> None:
    found = example(NORM, "float32")
    record, _ = answered(found, found.healthy(), inputs_crc=-1)
    assert record.verdict is Verdict.ERROR
    assert "testbench" in record.reason


def test_a_candidate_that_hangs_is_not_called_for_ever() -> None:
    found = example(NORM, "float32")
    worker = Scripted(lambda _: Answer("timeout", {"sentence": "no answer"}))
    records = [verify(found.case, [candidate(found)], worker, Settings())[0] for _ in range(HANGS + 2)]
    assert {record.verdict for record in records} == {Verdict.TIMEOUT}
    assert len(worker.asked) == HANGS


def test_a_gradient_without_power_takes_nothing_from_a_pass() -> None:
    found = example(NORM, "float32")
    judgements = [
        Judgement(output="out", verdict=Verdict.PASS),
        Judgement(output="grad:x", verdict=Verdict.NO_POWER, reason="grad:x: zeros would pass"),
    ]
    assert harness.verify.overall(judgements) == (Verdict.PASS, "")
    judgements[0] = dataclasses.replace(
        found.judge("out", found.healthy()["out"]), verdict=Verdict.NO_POWER, reason="o"
    )
    assert harness.verify.overall(judgements) == (Verdict.NO_POWER, "o")
