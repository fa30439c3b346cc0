"""Why a record is not a PASS, in sentences, and the command that shows it again."""

import json
import math
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from harness.codec import to_json
from harness.records import Aggregate, Judgement, Record, Verdict
from reports.text import number, percent, place, plain

__all__ = [
    "case_json",
    "dtype_of",
    "explain",
    "gravest_judgement",
    "length_of",
    "quoted",
    "ratio_gravity",
    "reproduction",
    "settings_summary",
    "shape_summary",
]

_NOT_SHAPE = frozenset({"op", "schema", "seed", "dtype"})


def case_json(record: Record) -> str:
    """Returns the case as one line of ASCII JSON."""
    return json.dumps(to_json(record.case), allow_nan=False)


def reproduction(record: Record) -> str:
    """Returns the shell command that runs the record's case on its candidate again."""
    relations = f" --relations {quoted(','.join(record.broken))}" if record.broken else ""
    return f"attest replay {quoted(case_json(record))} --candidate {quoted(record.candidate)}{relations}"


def quoted(text: str) -> str:
    """Returns a text as one word of a shell command."""
    return shlex.quote(text)


def length_of(case: Mapping[str, Any]) -> int | None:
    """Returns the number of query tokens; that of all sequences together where they are packed."""
    length = case.get("query_tokens", case.get("tokens"))
    if length is None and isinstance(case.get("query_lengths"), list | tuple):
        length = sum(item for item in case["query_lengths"] if isinstance(item, int))
    return length if isinstance(length, int) else None


def dtype_of(record: Record) -> str:
    """Returns the dtype of the case, else the storage format of the recipe."""
    return str(record.case.get("dtype") or record.recipe.get("storage") or "unknown")


def shape_summary(record: Record, *, limit: int = 160) -> str:
    """Returns what the case says besides operation, dtype and seed: ``"batch 2, tokens 64, causal yes"``."""
    return settings_summary(record.case, limit=limit)


def settings_summary(case: Mapping[str, Any], *, limit: int = 160) -> str:
    """Returns the same of a case that is plain data."""
    return plain(", ".join(_settings(case)), limit=limit)


def _settings(settings: Mapping[str, object]) -> Iterator[str]:
    for name, value in settings.items():
        if name in _NOT_SHAPE or value is None:
            continue
        if isinstance(value, Mapping):
            yield from _settings(value)
        elif isinstance(value, bool):
            yield f"{name} {'yes' if value else 'no'}"
        elif isinstance(value, list | tuple):
            yield f"{name} ({', '.join(map(str, value))})"
        else:
            yield f"{name} {value}"


def ratio_gravity(ratio: float) -> float:
    """Returns a ratio for comparison with others: an error that is not a number is beyond every tolerance."""
    return math.inf if math.isnan(ratio) else ratio


def gravest_judgement(record: Record) -> Judgement | None:
    """Returns the judgement of the gravest verdict, and of those the one with the largest ratio."""
    gravity = {verdict: rank for rank, verdict in enumerate(Verdict)}
    return max(
        record.judgements,
        key=lambda judged: (
            gravity[judged.verdict],
            -1.0 if judged.max_ratio is None else ratio_gravity(judged.max_ratio),
        ),
        default=None,
    )


def explain(record: Record) -> list[str]:
    """Returns a sentence for every judgement and relation of a record that is not a PASS, and for its re-tests."""
    judgements = [_judgement(judged) for judged in record.judgements if judged.verdict is not Verdict.PASS]
    relations = [
        f"Relation {plain(relation.name, limit=80)}: {_verdict(relation.verdict, relation.reason)}"
        for relation in record.relations
        if relation.verdict is not Verdict.PASS
    ]
    retests = [f"Re-tested with fresh seeds: {plain(json.dumps(to_json(record.retests)), limit=600)}."]
    return judgements + relations + (retests if record.retests else [])


def _judgement(judged: Judgement) -> str:
    parts = [f"Output {plain(judged.output, limit=80)}: {_verdict(judged.verdict, judged.reason)}"]
    if judged.max_ratio is not None:
        parts.append(
            f"Largest error at {place(judged.worst_index)}: got {number(judged.actual, digits=6)}, expected "
            f"{number(judged.expected, digits=6)}, tolerance {number(judged.bound)}, so {number(judged.max_ratio)} "
            f"times what the recipe allows ({judged.elements:,} elements, rms ratio {number(judged.rms_ratio)})."
        )
    parts.extend(_aggregate(test) for test in judged.aggregates if not test.excess <= 1)
    return " ".join(parts)


def _verdict(verdict: Verdict, reason: str) -> str:
    said = plain(reason, limit=600).rstrip(".")
    return f"{verdict}, {said}." if said else f"{verdict}."


def _aggregate(test: Aggregate) -> str:
    if test.name == "rms":
        return f"Over all elements rms is {number(test.value)} times the model, limit {number(test.limit)}."
    name = plain(test.name, limit=80)
    return f"Over all elements {name} is {percent(test.value)} %, limit {percent(test.limit)} %."
