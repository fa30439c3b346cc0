"""Chooses the relations of a case and runs them."""

import zlib
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from harness.execute import Answer
from harness.operations.base import Inputs
from harness.operations.case import Case
from harness.records import Judgement, Relation, Verdict
from harness.relations.exact import EXACT, Exact
from harness.relations.rewrites import REWRITES, Rewrite

__all__ = ["applicable", "check_relations", "chosen", "vary"]

_SOME = 1
"""Relations of a case that is not asked for all: each costs a call or more."""

_ONE_IN = 2
"""One case in so many is checked; its seed decides."""

Judge = Callable[[str, Tensor], Judgement]


def applicable(case: Case) -> list[str]:
    """Returns the names of the relations that say anything about a case."""
    rows: dict[str, Rewrite | Exact] = {**REWRITES, **EXACT}
    return [name for name, row in rows.items() if (not row.ops or case.op in row.ops) and row.applies(case)]


def chosen(case: Case, *, all_of_them: bool) -> list[str]:
    """Returns the relations of a case: all, or one of them in every second case, by its seed."""
    names = applicable(case)
    if all_of_them or not names:
        return names
    number = zlib.crc32(f"relations:{case.seed}".encode())
    if number % _ONE_IN:
        return []
    start = number // _ONE_IN % len(names)
    return [names[(start + step) % len(names)] for step in range(_SOME)]


def vary(case: Case, inputs: Inputs, name: str) -> Inputs:
    """Returns the inputs of the named exact property."""
    return EXACT[name].vary(case, inputs)


def check_relations(
    case: Case, inputs: Inputs, answer: Answer, again: Callable[[str], Answer], judge: Judge, names: Sequence[str]
) -> list[Relation]:
    """Returns what the named relations say of a case that passed.

    Args:
        case: the case.
        inputs: of the case.
        answer: what the candidate returned.
        again: calls the candidate as the named relation wants it.
        judge: judges an output by the budget of the case.
        names: the relations.
    """
    found = (_check(case, inputs, answer, again, judge, name) for name in names)
    return [each for each in found if each is not None]


def _check(
    case: Case, inputs: Inputs, answer: Answer, again: Callable[[str], Answer], judge: Judge, name: str
) -> Relation | None:
    other = again(name)
    if other.status == "unsupported":
        return None  # the other call is not the candidate's business
    if other.status != "ok":
        reason = f"{name}: {other.header.get('sentence') or other.status}"
        return Relation(
            name=name, verdict=Verdict.TIMEOUT if other.status == "timeout" else Verdict.ERROR, reason=reason
        )
    if name in REWRITES:
        return _judged(name, answer.tensors, other.tensors, judge)
    row = EXACT[name]
    outcome = row.compare(case, inputs, row.vary(case, inputs), answer.tensors, other.tensors)
    if outcome.wrong:
        return Relation(name=name, verdict=Verdict.FAIL_RELATION, reason=f"{name}: {outcome.wrong} {outcome.what}")
    if not outcome.has_power:
        return Relation(name=name, verdict=Verdict.NO_POWER, reason=f"{name}: its control changed nothing")
    return Relation(name=name, verdict=Verdict.PASS)


def _judged(name: str, first: Mapping[str, Tensor], other: Mapping[str, Tensor], judge: Judge) -> Relation:
    """Judges outputs that came another way; the control is the same result displaced by one along an axis."""
    has_power = False
    for output, value in other.items():
        if output not in first:
            continue
        found = judge(output, value.to(first[output].dtype))
        if found.verdict.is_failure:
            return Relation(name=name, verdict=Verdict.FAIL_RELATION, reason=f"{name}: {found.reason}")
        has_power = has_power or judge(output, _displaced(value.to(first[output].dtype))).verdict.is_failure
    if not has_power:
        return Relation(name=name, verdict=Verdict.NO_POWER, reason=f"{name}: displaced results would pass as well")
    return Relation(name=name, verdict=Verdict.PASS)


def _displaced(value: Tensor) -> Tensor:
    """Returns the values moved by one place along the first axis with several."""
    axis = next((axis for axis, size in enumerate(value.shape) if size > 1), None)
    return value if axis is None else value.roll(1, axis)
