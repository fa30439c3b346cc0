"""Chooses the relations of a case and runs them."""

import zlib
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from harness.execute import Answer
from harness.operations.base import Inputs
from harness.operations.case import Case
from harness.records import Judgement, Relation, Verdict
from harness.relations.exact import EXACT
from harness.relations.outcome import Exact, Outcome, Tensors, differs
from harness.relations.rewrites import REWRITES, Rewrite
from harness.truth import GRAD

__all__ = ["CHOICES", "CONTROL", "FRESH", "RELATIONS", "SAME_BITS", "applicable", "check_relations", "chosen", "vary"]

FRESH = "fresh_process"
"""The same call in a process that never made another one; it costs the start of a worker."""

SAME_BITS = "same_bits"
"""The same call again, of a candidate that promises the same bits; of any other it says nothing."""

CHOICES = ("some", "all", "none")
"""Which relations of a case are checked, where they are not named."""

RELATIONS = (*REWRITES, *EXACT, FRESH, SAME_BITS)
"""The names of all relations that need calls of their own."""

CONTROL = "/control"
"""Ending of the name of a property, for the inputs of its control."""

_SOME = 1
"""Relations of a case that is not asked for all: each costs a call or more."""

_ONE_IN = 2
"""One case in so many is checked; its seed decides."""

_PROMISE_ONE_IN = 4
"""One case in so many, of those that no other relation costs a call, is checked for a promise of the same bits."""

Again = Callable[[str], Answer]
Judge = Callable[[str, Tensor], Judgement]


def applicable(case: Case) -> list[str]:
    """Returns the names of the relations that say anything about a case."""
    rows: dict[str, Rewrite | Exact] = {**REWRITES, **EXACT}
    return [name for name, row in rows.items() if (not row.ops or case.op in row.ops) and row.applies(case)]


def chosen(case: Case, which: str, *, deterministic: bool = False) -> list[str]:
    """Returns the relations that a case is checked by.

    Args:
        case: the case.
        which: ``some``, one of them in every second case, by its seed, and the promise of the same bits in every
            fourth; ``all``, in a fresh process too; ``none``; or names of relations with commas between them, of which
            those stay that apply.
        deterministic: whether the candidate promises the same bits.
    """
    names, promised = applicable(case), [SAME_BITS] if deterministic else []
    if which == "none":
        return []
    if which == "all":
        return [*names, FRESH, *promised]
    if which != "some":
        return [name for name in which.split(",") if name in {*names, FRESH, *promised}]
    number = zlib.crc32(f"relations:{case.seed}".encode())
    if number % _PROMISE_ONE_IN == 1:
        return promised
    if number % _ONE_IN or not names:
        return []
    start = number // _ONE_IN % len(names)
    return [names[(start + step) % len(names)] for step in range(_SOME)]


def vary(case: Case, inputs: Inputs, name: str) -> Inputs:
    """Returns the inputs of the named exact property, or of its control."""
    row = EXACT[name.removesuffix(CONTROL)]
    if name.endswith(CONTROL) and row.control is not None:
        return row.control(case, inputs)
    return row.vary(case, inputs)


def check_relations(
    case: Case, inputs: Inputs, answer: Answer, again: Again, judge: Judge, names: Sequence[str]
) -> list[Relation]:
    """Returns what the named relations say of a case that passed.

    Args:
        case: the case.
        inputs: of the case.
        answer: what the candidate returned.
        again: calls the candidate as the named relation wants it; as at first if the name is empty.
        judge: judges an output or gradient by the budget of the case.
        names: the relations.
    """
    found = (_check(case, inputs, answer, again, judge, name) for name in names)
    return [each for each in found if each is not None]


def _check(case: Case, inputs: Inputs, answer: Answer, again: Again, judge: Judge, name: str) -> Relation | None:
    other = again("" if name == SAME_BITS else name)
    if other.status == "unsupported":
        return None  # the other call is not the candidate's business
    if other.status != "ok":
        reason = f"{name}: {other.header.get('sentence') or other.status}"
        verdict = Verdict.TIMEOUT if other.status == "timeout" else Verdict.ERROR
        return Relation(name=name, verdict=verdict, reason=reason)
    if name == SAME_BITS:
        return _same_bits(answer.tensors, other.tensors)
    if name in EXACT:
        return _exact(case, inputs, answer, other, again, judge, name)
    return _judged(name, answer.tensors, other.tensors, judge)


def _exact(
    case: Case, inputs: Inputs, answer: Answer, other: Answer, again: Again, judge: Judge, name: str
) -> Relation:
    row = EXACT[name]
    outcome = row.compare(case, inputs, row.vary(case, inputs), answer.tensors, other.tensors)
    if outcome.wrong:
        return _broken(name, outcome, answer, again, judge)
    has_power = outcome.has_power
    if row.control is not None and has_power:
        control = again(name + CONTROL)
        has_power = control.status == "ok" and not _same(answer.tensors, control.tensors)
    if not has_power:
        return Relation(name=name, verdict=Verdict.NO_POWER, reason=f"{name}: its control changed nothing")
    return Relation(name=name, verdict=Verdict.PASS)


def _same_bits(first: Tensors, other: Tensors) -> Relation:
    """Returns whether a second call kept the promise."""
    counts = {name: int(differs(value, other[name]).sum()) for name, value in first.items() if name in other}
    broken = ", ".join(f"{count} of {first[name].numel()} of {name}" for name, count in counts.items() if count)
    if not broken:
        return Relation(name=SAME_BITS, verdict=Verdict.PASS)
    reason = f"{SAME_BITS}: the same call again gives other bits, which this candidate promises not to: {broken}"
    return Relation(name=SAME_BITS, verdict=Verdict.FAIL_RELATION, reason=reason)


def _broken(name: str, outcome: Outcome, answer: Answer, again: Again, judge: Judge) -> Relation:
    """Returns what bits that differ say: a failure, unless they differ from run to run and stay within the budget."""
    reason = f"{name}: {outcome.wrong} {outcome.what}"
    if outcome.mixed and not _same(answer.tensors, again("").tensors):
        judged = [judge(output, value) for output, value in outcome.mixed.items()]
        if not any(item.verdict.is_failure for item in judged):
            reason = f"{name}: the same call twice gives other bits, and these stay within the budget"
            return Relation(name=name, verdict=Verdict.NO_POWER, reason=reason)
    return Relation(name=name, verdict=Verdict.FAIL_RELATION, reason=reason)


def _judged(name: str, first: Tensors, other: Tensors, judge: Judge) -> Relation:
    """Judges a result that came another way; the control is the same result displaced by one along an axis."""
    has_power = False
    for output, value in other.items():
        if output not in first:
            continue
        typed = value.to(first[output].dtype)
        found = judge(output, typed)
        if found.verdict.is_failure:
            return Relation(name=name, verdict=Verdict.FAIL_RELATION, reason=f"{name}: {found.reason}")
        if not output.startswith(GRAD):
            has_power = has_power or judge(output, _displaced(typed)).verdict.is_failure
    if not has_power:
        return Relation(name=name, verdict=Verdict.NO_POWER, reason=f"{name}: displaced results would pass as well")
    return Relation(name=name, verdict=Verdict.PASS, reason="the same bits" if _same(first, other) else "")


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Returns whether what two results have in common has the same bits."""
    return all(
        one[name].shape == item.shape and not bool(differs(one[name], item).any())
        for name, item in other.items() if name in one
    )  # fmt: skip


def _displaced(value: Tensor) -> Tensor:
    """Returns the values moved by one place along the first axis with several."""
    axis = next((axis for axis, size in enumerate(value.shape) if size > 1), None)
    return value if axis is None else value.roll(1, axis)
