"""One case on its candidates: inputs, candidate in its worker, reference, budget, judgement, Record.

The candidate runs before the reference. What several candidates of one case share (inputs, truth, budget of one recipe)
is computed once.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from torch import Tensor

from harness.budget import Budget, measure_budgets
from harness.codec import to_json
from harness.environment import snapshot
from harness.execute import Answer, Worker
from harness.judge import judge, judge_missing
from harness.operations.case import Case
from harness.ops import operation
from harness.records import Judgement, Phases, Record, Relation, Verdict, worst_verdict
from harness.relations.check import FRESH, check_relations, chosen
from harness.truth import GRAD, Truth, truth
from harness.wire import inputs_crc
from optimized.candidate import Candidate, Recipe

__all__ = ["MORE", "RETESTS", "Settings", "Shared", "overall", "settled", "verify"]

RETESTS = 4
"""Fresh seeds on which an AMBIGUOUS case is judged again."""

HANGS = 3
"""Time-outs in a row after which a candidate is not called any more."""

MORE = 4
"""Times as many samples by which a budget is measured again before anything fails by it."""

_REMEASURED = frozenset({Verdict.AMBIGUOUS, Verdict.FAIL_NUMERIC, Verdict.NO_POWER})


_BEYOND = frozenset({Verdict.AMBIGUOUS, *(verdict for verdict in Verdict if verdict.value.startswith("FAIL"))})
"""Verdicts of a fresh seed that turn AMBIGUOUS into a failure; a time-out of it says nothing about numbers."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How cases are run.

    Attributes:
        device: ``cpu`` or ``cuda``.
        threads: threads per worker.
        limit_s: seconds that one call of a candidate may take.
        plugin: plug-in file, or None.
        relations: ``some`` of the relations of some cases, ``all`` that apply, ``none``, or their names with commas.
    """

    device: str = "cpu"
    threads: int = 1
    limit_s: float = 120.0
    plugin: str | None = None
    relations: str = "some"


class Shared:
    """What the candidates of one case share.

    Attributes:
        answers: what each candidate returned, by its name.
    """

    def __init__(self, case: Case) -> None:
        started = time.perf_counter()
        self.case = case
        self.row = operation(case.op)
        self.inputs = self.row.inputs(case)
        self.inputs_s = time.perf_counter() - started
        self.answers: dict[str, Answer] = {}
        self._truths: dict[tuple[tuple[str, ...], bool], Truth] = {}
        self._budgets: dict[tuple[tuple[str, ...], bool, Recipe, int], dict[str, Budget]] = {}

    def expected(self, provided: tuple[str, ...], *, with_gradients: bool) -> Truth:
        """Returns the truth for the outputs that a candidate provides."""
        key = (provided, with_gradients)
        if key not in self._truths:
            self._truths[key] = truth(self.row, self.inputs, provided, with_gradients=with_gradients)
        return self._truths[key]

    def budgets(
        self, provided: tuple[str, ...], recipe: Recipe, *, with_gradients: bool, factor: int = 1
    ) -> dict[str, Budget]:  # fmt: skip
        """Returns the budgets of a recipe for those outputs, from ``factor`` times the operation's samples."""
        key = (provided, with_gradients, recipe, factor)
        if key not in self._budgets:
            expected = self.expected(provided, with_gradients=with_gradients)
            samples = factor * self.row.samples
            self._budgets[key] = measure_budgets(self.row, self.case, self.inputs, recipe, expected, samples=samples)
        return self._budgets[key]


def verify(case: Case, candidates: Sequence[Candidate], worker: Worker, settings: Settings) -> list[Record]:
    """Returns one Record per candidate.

    Args:
        case: the case.
        candidates: of the case's operation, with its dtype as storage.
        worker: runs the candidates.
        settings: how.
    """
    shared = Shared(case)
    return [settled(shared, candidate, worker, settings) for candidate in candidates]


def settled(shared: Shared, candidate: Candidate, worker: Worker, settings: Settings) -> Record:
    """Returns the record of a case; an AMBIGUOUS one is judged again with fresh seeds, never with the same one.

    It stays AMBIGUOUS when all fresh seeds pass, and fails when one of them is beyond its limit as well.

    Args:
        shared: the case; it keeps what the candidate returned.
        candidate: who is judged.
        worker: runs it.
        settings: how.
    """
    record = _record(shared, candidate, worker, settings)
    if record.verdict is not Verdict.AMBIGUOUS:
        return record
    retests = []
    for index in range(1, RETESTS + 1):
        fresh = shared.case.replaced(seed=(shared.case.seed + 0x9E3779B1 * index) % 2**31)
        again = _record(Shared(fresh), candidate, worker, dataclasses.replace(settings, relations="none"))
        retests.append({"seed": fresh.seed, "verdict": again.verdict.value, "reason": again.reason})
    if not any(each["verdict"] in _BEYOND for each in retests):
        return dataclasses.replace(record, retests=retests)
    reason = f"{record.reason}; beyond its limit again on a fresh seed"
    judgements = [
        dataclasses.replace(item, verdict=Verdict.FAIL_NUMERIC) if item.verdict is Verdict.AMBIGUOUS else item
        for item in record.judgements
    ]
    return dataclasses.replace(
        record, verdict=Verdict.FAIL_NUMERIC, reason=reason, judgements=judgements, retests=retests
    )


def _record(shared: Shared, candidate: Candidate, worker: Worker, settings: Settings) -> Record:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    hung = worker.hung[candidate.name]
    request = {"kind": "run", "case": shared.case.to_data(), "candidate": candidate.name, "plugin": settings.plugin}
    answer = (
        worker.ask(request) if hung < HANGS else Answer("timeout", {"sentence": f"not called: it hung {hung} times"})
    )
    worker.hung[candidate.name] = hung + 1 if answer.status == "timeout" else 0
    candidate_s = float(answer.header.get("candidate_s", 0.0))
    fields: dict[str, Any] = {
        "case": shared.case.to_data(),
        "case_id": shared.case.case_id,
        "candidate": candidate.name,
        "recipe": to_json(candidate.recipe),
        "environment": snapshot(settings.device, settings.threads),
        "seed": shared.case.seed,
        "started": started,
    }
    phases = Phases(inputs_s=shared.inputs_s, candidate_s=candidate_s, worker_s=max(answer.seconds - candidate_s, 0.0))
    if answer.status == "ok" and answer.header["inputs_crc"] != inputs_crc(shared.inputs):
        answer = Answer("error", {"sentence": "the testbench's worker made other inputs than the reference got"})
    shared.answers[candidate.name] = answer
    if answer.status != "ok":
        return Record(**fields, **_not_judged(answer), phases=phases)
    judged, phases = _judged(shared, candidate, answer, phases)
    relations = list(_memory_relations(answer))
    if judged["verdict"] is Verdict.PASS:
        names = chosen(shared.case, settings.relations, deterministic=candidate.deterministic)
        relations += _relations(shared, candidate, answer, _again(worker, request), names)
    # A relation without power says so itself; it takes nothing from what was judged.
    counted = [item.verdict for item in relations if item.verdict is not Verdict.NO_POWER]
    verdict = worst_verdict([judged["verdict"], *counted])
    reason = judged["reason"]
    if verdict is not judged["verdict"]:
        reason = next(item.reason for item in relations if item.verdict is verdict)
    return Record(**fields, **{**judged, "verdict": verdict, "reason": reason}, relations=relations, phases=phases)


def _judged(
    shared: Shared, candidate: Candidate, answer: Answer, phases: Phases
) -> tuple[dict[str, Any], Phases]:  # fmt: skip
    """Returns verdict, reason, judgements and what was not checked, and the time that it took."""
    row = shared.row
    provided = tuple(output.name for output in row.outputs if output.name in answer.tensors)
    with_gradients = candidate.differentiable and bool(row.differentiable(shared.inputs.tensors))
    times = [time.perf_counter()]
    expected = shared.expected(provided, with_gradients=with_gradients)
    times.append(time.perf_counter())
    budgets = shared.budgets(provided, candidate.recipe, with_gradients=with_gradients)
    times.append(time.perf_counter())
    judgements = [
        _judge_one(shared, name, answer.tensors.get(name), budget, expected) for name, budget in budgets.items()
    ]
    if any(item.verdict in _REMEASURED for item in judgements):
        # Few samples of an element whose whole row shares one rounding are a poor estimate: decide by more of them.
        budgets = shared.budgets(provided, candidate.recipe, with_gradients=with_gradients, factor=MORE)
        judgements = [
            _judge_one(shared, name, answer.tensors.get(name), budget, expected) for name, budget in budgets.items()
        ]
    times.append(time.perf_counter())
    unchecked = [output.name for output in row.outputs if output.name not in provided]
    if not candidate.differentiable:
        unchecked += [GRAD + name for name in row.differentiable(shared.inputs.tensors)]
    judgements += [
        Judgement(output=output.name, verdict=Verdict.FAIL_SHAPE, reason=f"{output.name}: got None, expected a tensor")
        for output in row.outputs
        if output.name not in provided and not output.optional
    ]
    unchecked = [name for name in unchecked if name not in {item.output for item in judgements}]
    verdict, reason = overall(judgements)
    result = {"verdict": verdict, "reason": reason, "judgements": judgements, "unchecked": unchecked}
    reference_s, budget_s, judge_s = (after - before for before, after in itertools.pairwise(times))
    return result, dataclasses.replace(phases, reference_s=reference_s, budget_s=budget_s, judge_s=judge_s)


def overall(judgements: Sequence[Judgement]) -> tuple[Verdict, str]:
    """Returns the verdict of all tensors together, and its reason.

    A gradient that this case cannot decide says so itself and takes nothing from the others; an output does.
    """
    counted = [
        item for item in judgements if item.verdict is not Verdict.NO_POWER or not item.output.startswith(GRAD)
    ] or list(judgements)
    verdict = worst_verdict([item.verdict for item in counted])
    return verdict, next((item.reason for item in counted if item.verdict is verdict and item.reason), "")


def _judge_one(
    shared: Shared, name: str, actual: Tensor | None, budget: Budget, expected: Truth
) -> Judgement:  # fmt: skip
    if actual is None:
        return judge_missing(name, budget)
    tangents = {direction: values[name] for direction, values in expected.tangents.items()}
    return judge(shared.row, name, actual, budget, tangents, shared.case.dtype)


def _not_judged(answer: Answer) -> dict[str, Any]:
    """Returns verdict, reason and traceback of a candidate that gave no result."""
    verdicts: Mapping[str, Verdict] = {"unsupported": Verdict.UNSUPPORTED, "timeout": Verdict.TIMEOUT}
    return {
        "verdict": verdicts.get(answer.status, Verdict.ERROR),
        "reason": str(answer.header.get("sentence") or answer.status),
        "traceback": str(answer.header.get("traceback", "")),
    }


def _again(worker: Worker, request: Mapping[str, Any]) -> Callable[[str], Answer]:
    """Returns what calls a candidate again as a relation wants it, in a new process if that is the relation."""

    def again(name: str) -> Answer:
        if name == FRESH:
            worker.close()
            return worker.ask(request)
        return worker.ask({**request, "variation": name})

    return again


def _relations(
    shared: Shared, candidate: Candidate, answer: Answer, again: Callable[[str], Answer], names: Sequence[str]
) -> list[Relation]:
    """Returns what the named relations say; other calls are judged by the budgets of the case."""
    provided = tuple(output.name for output in shared.row.outputs if output.name in answer.tensors)
    with_gradients = candidate.differentiable and bool(shared.row.differentiable(shared.inputs.tensors))
    expected = shared.expected(provided, with_gradients=with_gradients)

    def judge_output(name: str, value: Tensor) -> Judgement:
        for factor in (1, MORE):
            budgets = shared.budgets(provided, candidate.recipe, with_gradients=with_gradients, factor=factor)
            found = _judge_one(shared, name, value, budgets[name], expected)
            if found.verdict not in _REMEASURED:
                break
        return found

    return check_relations(shared.case, shared.inputs, answer, again, judge_output, names)


def _memory_relations(answer: Answer) -> list[Relation]:
    """Returns what the worker saw of the memory: inputs unchanged, canaries alive."""
    changed, killed = answer.header["changed"], answer.header["killed_canaries"]
    return [
        Relation(
            name="inputs_unchanged",
            verdict=Verdict.FAIL_RELATION if changed else Verdict.PASS,
            reason=f"the call changed its inputs: {', '.join(changed)}" if changed else "",
        ),
        Relation(
            name="writes_in_bounds",
            verdict=Verdict.FAIL_RELATION if killed else Verdict.PASS,
            reason=f"{killed} buffers were written outside their bounds" if killed else "",
        ),
    ]
