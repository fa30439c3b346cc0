"""What the page and the summary say first: what was judged, on what, and how it went."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.alarms import CAPACITY, FALSE_ALARMS, PER_TEST
from harness.codec import to_json
from harness.pool import failing, pooled
from harness.records import Phases, Record, Verdict
from reports.explain import dtype_of
from reports.text import number, plain, plural

__all__ = ["Headline", "MapCell", "headline", "phase_shares", "verdict_map"]


_DTYPES = ("float64", "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """The first lines.

    Attributes:
        sentence: the outcome in one sentence.
        good: whether no case failed.
        scope: what was judged, in one sentence.
        totals: number of cases of each verdict that occurred.
        failing: number of failing cases of each (operation, candidate), the most first.
        facts: settings, environment, versions and seeds as (name, value).
        key_facts: the first short ones of them.
    """

    sentence: str
    good: bool
    scope: str
    totals: Mapping[Verdict, int]
    failing: Sequence[tuple[str, str, int]]
    facts: Sequence[tuple[str, str]]
    key_facts: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class MapCell:
    """One candidate in a field of the verdict map: number of cases of each verdict, the gravest first."""

    candidate: str
    verdict: Verdict
    totals: Mapping[Verdict, int]


def headline(records: Sequence[Record], run: Mapping[str, Any]) -> Headline:
    """Returns the first lines of a report on the records of a run with these settings."""
    counts = Counter(record.verdict for record in records)
    failing_cases = Counter(
        (plain(record.op, limit=60), plain(record.candidate, limit=60))
        for record in records
        if record.verdict.is_failure
    )
    failures = sum(failing_cases.values())
    tests = pooled(records)
    beyond = failing(tests)
    kernels = {(record.op, record.candidate) for record in records}
    judged = sum(bool(record.judgements) for record in records)
    outcome = (
        f"{plural(failures, 'case')} {'fails' if failures == 1 else 'fail'}, on {len(failing_cases)} of "
        f"{plural(len(kernels), 'kernel')}"
        if failures
        else f"No case fails alone, but {plural(len(beyond), 'kernel')} over all cases together"
        if beyond
        else f"No failure in {plural(judged, 'judged case')}"
    )
    started = sorted(plain(record.started, limit=40).replace("T", " ").removesuffix("Z") for record in records)
    spent = sum(sum(to_json(record.phases).values()) for record in records)
    facts = [*_facts("run: ", run), ("seeds", _seeds(records)), _alarms(records, len(tests)), *_environment(records)]
    return Headline(
        sentence=outcome,
        good=not failures and not beyond,
        scope=f"{plural(len(records), 'case')} on {plural(len(kernels), 'kernel')} of "
        f"{plural(len({record.op for record in records}), 'operation')}, {judged:,} of them judged; "
        f"started from {started[0]} to {started[-1]} UTC, {number(spent)} s of work.",
        totals={verdict: counts[verdict] for verdict in Verdict if counts[verdict]},
        failing=[(op, candidate, count) for (op, candidate), count in failing_cases.most_common(12)],
        facts=facts,
        key_facts=[(name, value) for name, value in facts if len(name) <= 24 and len(value) <= 24][:10],
    )


def _alarms(records: Sequence[Record], tests: int) -> tuple[str, str]:
    """Returns how the one false-alarm budget of the campaign was spent."""
    single = sum(len(judged.aggregates) for record in records for judged in record.judgements)
    text = (
        f"{FALSE_ALARMS:g} for the whole campaign: {single:,} tests of single cases at {PER_TEST:g} each "
        f"(paid for: {CAPACITY:,}), {plural(tests, 'pooled test')} share the other half"
    )
    return "false-alarm budget", text


def verdict_map(records: Sequence[Record]) -> tuple[list[str], dict[str, dict[str, list[MapCell]]]]:
    """Returns the dtypes that occur and, for each operation and dtype, how every candidate did.

    The verdict of a field is the gravest of the cases that the candidate supports.
    """
    groups: dict[str, dict[str, dict[str, Counter[Verdict]]]] = {}
    for record in records:
        row = groups.setdefault(plain(record.op), {}).setdefault(plain(dtype_of(record)), {})
        row.setdefault(plain(record.candidate), Counter())[record.verdict] += 1
    seen = {dtype for row in groups.values() for dtype in row}
    dtypes = [dtype for dtype in _DTYPES if dtype in seen] + sorted(seen - set(_DTYPES))
    fields = {
        op: {dtype: [_map_cell(*entry) for entry in sorted(field.items())] for dtype, field in row.items()}
        for op, row in sorted(groups.items())
    }
    return dtypes, fields


def phase_shares(records: Sequence[Record]) -> list[tuple[str, float]]:
    """Returns the share of the judged cases' time that each phase took, as (name, share); empty without times."""
    judged = [record.phases for record in records if record.judgements]
    names = list(to_json(Phases()))
    seconds = {name: sum(getattr(phases, name) for phases in judged) for name in names}
    total = sum(seconds.values())
    return [(name.removesuffix("_s"), part / total) for name, part in seconds.items()] if total > 0 else []


def _map_cell(candidate: str, counts: Counter[Verdict]) -> MapCell:
    gravest_first = [verdict for verdict in reversed(Verdict) if counts[verdict]]
    ordered = sorted(gravest_first, key=lambda verdict: verdict is Verdict.UNSUPPORTED)
    return MapCell(candidate=candidate, verdict=ordered[0], totals={verdict: counts[verdict] for verdict in ordered})


def _environment(records: Sequence[Record]) -> list[tuple[str, str]]:
    """Returns every environment value; where the records differ, all values, the most frequent first."""
    values: dict[str, Counter[str]] = {}
    for record in records:
        for name, value in _facts("", record.environment):
            values.setdefault(name, Counter())[value] += 1
    return [(name, "; ".join(text for text, _ in counts.most_common(5))) for name, counts in values.items()]


def _facts(prefix: str, settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts: list[tuple[str, str]] = []
    for name, value in settings.items():
        if value is None or value == "":
            continue
        if isinstance(value, Mapping):
            facts.extend(_facts(f"{prefix}{name} ", value))
        else:
            text = value if isinstance(value, str) else json.dumps(to_json(value))
            facts.append((plain(f"{prefix}{name}", limit=60), plain(text, limit=200)))
    return facts


def _seeds(records: Sequence[Record]) -> str:
    seeds = sorted({record.seed for record in records})
    return str(seeds[0]) if len(seeds) == 1 else f"{len(seeds):,} seeds, {seeds[0]} to {seeds[-1]}"
