"""One case on seeded faults and their healthy twins, judged as ``verify`` does and by the rules of other projects.

It runs inside a lane. What the faults of a case share (inputs, truth, budgets, a twin that several have) is computed
once; truth and budgets cost most.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from harness.budget import Budget
from harness.execute import Answer, Worker
from harness.operations.case import Case
from harness.power.rules import RULES, rejected
from harness.power_results import OURS
from harness.records import Record, Verdict
from harness.verify import Settings, Shared, settled
from optimized.candidate import Candidate

__all__ = ["Run", "detector_of", "run_case", "same_behaviour"]

_PLAINEST = ("element", "gain", "along", "bias", "slice", "lean", "spread")
"""Numerical checks, those first that need the least explanation: a fault that one element shows needs no other."""

_BROKEN = frozenset({"error", "crash", "timeout"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One candidate on one case.

    Attributes:
        subject: key of the fault, or the name of the first of the healthy twins that are one function.
        is_healthy: whether it is a twin.
        op: the operation.
        case_id: hash of the case.
        case: the case as JSON data.
        verdict: of attest.
        reason: its sentence.
        detector: the plainest check that found it, see ``detector_of``; empty where nothing did.
        is_equivalent: whether the fault did nothing here; never counted then.
        caught: by rule, whether it fails; attest's own is among them.
        first: by rule, whether it fails by the operation's first output alone.
        is_fatal: whether it ended or hung the worker, so that it is not called more often than needed.
    """

    subject: str
    is_healthy: bool
    op: str
    case_id: str
    case: Mapping[str, Any]
    verdict: str
    reason: str = ""
    detector: str = ""
    is_equivalent: bool = False
    caught: Mapping[str, bool] = field(default_factory=dict)
    first: Mapping[str, bool] = field(default_factory=dict)
    is_fatal: bool = False


def run_case(
    case: Case, pairs: Sequence[tuple[str, Candidate, Candidate]], worker: Worker, settings: Settings
) -> list[Run]:
    """Returns a run per fault, and one per different healthy twin.

    Args:
        case: the case.
        pairs: key of the fault, the wrong candidate, its healthy twin.
        worker: runs them.
        settings: how.
    """
    shared = Shared(case)
    twins: dict[tuple[int, bool, bool], tuple[Candidate, Record]] = {}
    runs = []
    for key, wrong, healthy in pairs:
        # Twins that load one function and differ in name alone run once.
        identity = (id(healthy.load), healthy.differentiable, healthy.deterministic)
        if identity not in twins:
            twins[identity] = (healthy, settled(shared, healthy, worker, settings))
            if twins[identity][1].verdict is not Verdict.UNSUPPORTED:
                run = _run(shared, healthy, twins[identity][1], subject=healthy.name, is_healthy=True)
                if twins[identity][1].verdict.is_failure:
                    run = replace(run, reason=f"{run.reason}; {_again(case, healthy, worker, settings)}")
                runs.append(run)
        twin, healthy_record = twins[identity]
        record = settled(shared, wrong, worker, settings)
        equivalent = same_behaviour(
            (record, shared.answers[wrong.name]), (healthy_record, shared.answers[twin.name])
        )  # fmt: skip
        runs.append(_run(shared, wrong, record, subject=key, is_equivalent=equivalent))
    return runs


def _again(case: Case, candidate: Candidate, worker: Worker, settings: Settings) -> str:
    """Returns what became of a false alarm when it was run again at once.

    It changes no verdict. It tells a hole of the model, which shows again, from an execution that depends on where its
    memory happened to be or on what was in it.
    """
    record = settled(Shared(case), candidate, worker, settings)
    return f"run again at once: {record.verdict.value}" + (f" ({record.reason})" if record.reason else "")


def same_behaviour(one: tuple[Record, Answer], other: tuple[Record, Answer]) -> bool:
    """Returns whether two candidates did the same: status, memory, relations, every number of every tensor.

    The sign of a zero and the payload of a NaN are no difference.
    """
    (left_record, left), (right_record, right) = one, other
    if left.status != "ok" or right.status != "ok":
        return left.status == right.status
    if any(left.header.get(name) != right.header.get(name) for name in ("changed", "killed_canaries", "missing")):
        return False
    if left.tensors.keys() != right.tensors.keys():
        return False
    if not all(_same(left.tensors[name], right.tensors[name]) for name in left.tensors):
        return False
    return _relations(left_record) == _relations(right_record)


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(torch.equal(torch.nan_to_num(one), torch.nan_to_num(other))) and bool(
        torch.equal(torch.isfinite(one), torch.isfinite(other)) and torch.equal(torch.isnan(one), torch.isnan(other))
    )


def _relations(record: Record) -> dict[str, Verdict]:
    return {item.name: item.verdict for item in record.relations}


def _run(
    shared: Shared, candidate: Candidate, record: Record, *, subject: str, is_healthy: bool = False,
    is_equivalent: bool = False,
) -> Run:  # fmt: skip
    answer = shared.answers[candidate.name]
    output = shared.row.outputs[0].name
    is_broken = answer.status in _BROKEN
    foreign = {name: [output] if is_broken else [] for name in RULES}
    if answer.status == "ok":
        foreign = rejected(answer.tensors, _budgets(shared, candidate, answer))
    failed = [item.output for item in record.judgements if item.verdict.is_failure]
    return Run(
        subject=subject,
        is_healthy=is_healthy,
        op=shared.row.name,
        case_id=shared.case.case_id,
        case=shared.case.to_data(),
        verdict=record.verdict.value,
        reason=record.reason,
        detector=detector_of(record),
        is_equivalent=is_equivalent,
        caught={OURS: record.verdict.is_failure, **{name: bool(names) for name, names in foreign.items()}},
        first={OURS: is_broken or output in failed, **{name: output in names for name, names in foreign.items()}},
        is_fatal=answer.status in {"crash", "timeout"},
    )


def _budgets(shared: Shared, candidate: Candidate, answer: Answer) -> Mapping[str, Budget]:
    """Returns the budgets by which the candidate was judged first; the exact values are in them."""
    row = shared.row
    provided = tuple(output.name for output in row.outputs if output.name in answer.tensors)
    with_gradients = candidate.differentiable and bool(row.differentiable(shared.inputs.tensors))
    return shared.budgets(provided, candidate.recipe, with_gradients=with_gradients)


def detector_of(record: Record) -> str:
    """Returns the check that failed a record, the plainest where several did; empty where none did.

    ``element``; ``gain``, ``bias``, ``slice`` and other tests over all elements; ``along`` an argument; ``shape``,
    ``dtype``, ``nonfinite``; ``memory`` (written out of bounds), ``inputs`` (changed); ``relation:NAME``; ``error``,
    ``timeout``.
    """
    names = {
        Verdict.ERROR: "error", Verdict.TIMEOUT: "timeout", Verdict.FAIL_SHAPE: "shape", Verdict.FAIL_DTYPE: "dtype",
        Verdict.FAIL_NONFINITE: "nonfinite",
    }  # fmt: skip
    if record.verdict in names:
        broken = [item.name for item in record.relations if item.verdict is record.verdict]
        return f"relation:{broken[0]}" if broken else names[record.verdict]
    if record.verdict is Verdict.FAIL_RELATION:
        name = next(item.name for item in record.relations if item.verdict is record.verdict)
        return {"writes_in_bounds": "memory", "inputs_unchanged": "inputs"}.get(name, f"relation:{name}")
    if record.verdict is not Verdict.FAIL_NUMERIC:
        return ""
    beyond = {
        name
        for item in record.judgements
        if item.verdict is Verdict.FAIL_NUMERIC
        for name in (
            *(["element"] if (item.max_ratio or 0.0) > 1 else []),
            *(each.name.partition(":")[0] for each in item.aggregates if each.excess > 1),
        )
    }
    return min(beyond, key=_plainness, default="")


def _plainness(name: str) -> int:
    return _PLAINEST.index(name) if name in _PLAINEST else len(_PLAINEST)
