"""Finds a small case that fails alike: greedy, field by field, towards the simplest value of each."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from harness.errors import UsageError
from harness.operations.case import Case
from harness.records import Record

__all__ = ["ATTEMPTS", "shrink", "simpler"]

_KEPT = {"dtype", "seed"}  # a candidate has one storage dtype; the seed goes last

ATTEMPTS = 60
"""Calls of a candidate that shrinking may cost."""

_LINKED = (("query_tokens", "key_tokens"), ("head_dim", "value_dim"), ("key_dim", "value_dim"))


def shrink(case: Case, judge: Callable[[Case], Record], *, attempts: int = ATTEMPTS) -> Record:
    """Returns the record of the smallest failing case found; of ``case`` itself when it fails no longer.

    Args:
        case: a case that failed.
        judge: judges one case.
        attempts: largest number of calls.
    """
    best = judge(case)
    if not best.verdict.is_failure:
        return best
    tried = {case.case_id}
    left = attempts
    progress = True
    while progress and left > 0:
        progress = False
        for smaller in simpler(case):
            if smaller.case_id in tried:
                continue
            tried.add(smaller.case_id)
            left -= 1
            record = judge(smaller)
            if record.verdict is best.verdict:
                case, best, progress = smaller, record, True
                break
            if left <= 0:
                break
    return best


def simpler(case: Case) -> Iterator[Case]:
    """Yields valid cases that are simpler in one respect, the boldest steps first."""
    for changes in _steps(case):
        try:
            yield case.replaced(**changes)
        except UsageError:
            continue


def _steps(case: Case) -> Iterator[dict[str, Any]]:
    values = {field.name: getattr(case, field.name) for field in dataclasses.fields(case)}
    if values.get("sequence_lengths"):
        yield from _packed_steps(values)
    if "query_lengths" in values:
        yield from _paired_steps(values)
    yield from _default_steps(case)
    for first, second in _LINKED:
        if first in values and second in values:
            yield from ({first: size, second: size} for size in _smaller_sizes(max(values[first], values[second])))
    for name, value in values.items():
        if type(value) is int and name != "seed":
            yield from ({name: size} for size in _smaller_sizes(value))
    if values["seed"] > 9:
        yield {"seed": 0}


def _default_steps(case: Case) -> Iterator[dict[str, Any]]:
    for field in dataclasses.fields(case):
        value = getattr(case, field.name)
        if field.default is dataclasses.MISSING or value == field.default or field.name in _KEPT:
            continue
        if not isinstance(value, tuple):
            yield {field.name: field.default}


def _packed_steps(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    lengths = values["sequence_lengths"]
    yield {"sequence_lengths": ()}
    for index in range(len(lengths)):
        kept = lengths[:index] + lengths[index + 1 :]
        if sum(kept):
            yield {"sequence_lengths": kept, "tokens": sum(kept)}
    for index, length in enumerate(lengths):
        for size in _smaller_sizes(length):
            halved = (*lengths[:index], size, *lengths[index + 1 :])
            yield {"sequence_lengths": halved, "tokens": sum(halved)}


def _paired_steps(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    queries, keys = values["query_lengths"], values["key_lengths"]
    for index in range(len(queries)):
        yield {
            "query_lengths": queries[:index] + queries[index + 1 :],
            "key_lengths": keys[:index] + keys[index + 1 :],
        }
    for index in range(len(queries)):
        for size in _smaller_sizes(max(queries[index], keys[index])):
            yield {
                "query_lengths": (*queries[:index], size, *queries[index + 1 :]),
                "key_lengths": (*keys[:index], size, *keys[index + 1 :]),
            }


def _smaller_sizes(size: int) -> list[int]:
    return [each for each in dict.fromkeys((1, 2, size // 4, size // 2, size - 1)) if 0 < each < size]
