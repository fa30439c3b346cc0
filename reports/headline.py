"""What the page and the summary say first: what was judged, on what, and how it went."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.alarms import CAPACITY, FALSE_ALARMS, PER_TEST
from harness.codec import to_json
from harness.pool import Pooled, failing, pooled
from harness.power_results import PowerResults
from harness.records import Record, Verdict
from reports.benchmark import Line, not_timed
from reports.power_tables import power_sentence
from reports.text import number, plain, plural

__all__ = ["Headline", "benchmark_headline", "headline", "power_headline"]


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
        key_facts: those that a reader looks for first.
        beyond: sentences of the tests over the whole campaign that failed.
    """

    sentence: str
    good: bool
    scope: str
    totals: Mapping[Verdict, int]
    failing: Sequence[tuple[str, str, int]]
    facts: Sequence[tuple[str, str]]
    key_facts: Sequence[tuple[str, str]]
    beyond: Sequence[str] = ()


def headline(
    records: Sequence[Record], run: Mapping[str, Any], power: PowerResults | None = None, *,
    tests: Sequence[Pooled] | None = None,
) -> Headline:  # fmt: skip
    """Returns the first lines of a report on records.

    Args:
        records: at least one.
        run: settings of the run.
        power: score of the judge, where it is joined.
        tests: the pooled tests of the records, where they are known already.
    """
    counts = Counter(record.verdict for record in records)
    failing_cases = Counter(
        (plain(record.op, limit=60), plain(record.candidate, limit=60))
        for record in records
        if record.verdict.is_failure
    )
    failures = sum(failing_cases.values())
    tests = pooled(records) if tests is None else tests
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
    started = sorted(
        plain(record.started, limit=40).replace("T", " ").removesuffix("Z").removesuffix("+00:00") for record in records
    )
    spent = sum(sum(to_json(record.phases).values()) for record in records)
    found = _environment([record.environment for record in records])
    facts = [*_facts("run: ", run), ("seeds", _seeds(records)), _alarms(records, len(tests)), *found]
    return Headline(
        sentence=outcome,
        good=not failures and not beyond,
        scope=f"{plural(len(records), 'case')} on {plural(len(kernels), 'kernel')} of "
        f"{plural(len({record.op for record in records}), 'operation')}, {judged:,} of them judged; "
        f"started from {started[0]} to {started[-1]} UTC, {number(spent)} s of work.",
        totals={verdict: counts[verdict] for verdict in Verdict if counts[verdict]},
        failing=[(op, candidate, count) for (op, candidate), count in failing_cases.most_common(12)],
        facts=facts,
        key_facts=_key_facts(facts, power),
        beyond=[plain(test.sentence, limit=300) for each in beyond.values() for test in each],
    )


def power_headline(results: PowerResults) -> Headline:
    """Returns the first lines of a report on a score of the judge alone."""
    facts = [*_facts("run: ", results.asked), *_facts("", results.environment)]
    operations = {item.op for item in results.faults}
    return Headline(
        sentence=power_sentence(results),
        good=not results.alarms,
        scope=f"The judge on bugs that really happened, seeded into {plural(len(operations), 'operation')}, and on "
        f"their healthy twins; {number(results.seconds)} s.",
        totals={},
        failing=[],
        facts=facts,
        key_facts=_key_facts(facts, results),
        beyond=[plain(sentence, limit=300) for sentence in results.alarms],
    )


def benchmark_headline(lines: Sequence[Line]) -> Headline:
    """Returns the first lines of a report on the times of a benchmark alone.

    Args:
        lines: at least one.
    """
    timed = [line for line in lines if line.get("median_us") is not None]
    without = not_timed(lines)
    own = sum(is_ours for is_ours, _ in without)
    operations = {str(line["case"]["op"]) for line in lines}
    shapes = {json.dumps(line["case"], sort_keys=True) for line in timed}
    arms = {(str(line["case"]["op"]), str(line["arm"])) for line in timed}
    facts = _environment([line.get("environment") or {} for line in lines])
    outcome = f"{plural(len(timed), 'time')} of {plural(len(arms), 'kernel')} on {plural(len(shapes), 'shape')}"
    return Headline(
        sentence=f"{outcome}, {own} of the project's own {'has' if own == 1 else 'have'} none" if own else outcome,
        good=not own,
        scope=f"A benchmark of {plural(len(operations), 'operation')}: every kernel is judged on a part of the very "
        "call, then timed in rounds with all others.",
        totals={},
        failing=[],
        facts=facts,
        key_facts=_key_facts(facts, None),
        beyond=[sentence for _, sentence in without],
    )


_KEY_FACTS = {
    "device_name": "device", "run: profile": "profile", "run: seed": "seed", "commit": "commit",
    "dirty": "changed since", "versions torch": "torch", "versions triton": "triton", "driver": "driver",
    "threads": "threads",
}  # fmt: skip


def _key_facts(facts: Sequence[tuple[str, str]], power: PowerResults | None) -> list[tuple[str, str]]:
    known = dict(facts)
    chosen = [(label, known[name]) for name, label in _KEY_FACTS.items() if known.get(name, "false") != "false"]
    said = {"commit": known.get("commit", "")[:10], "changed since": "yes"}
    short = [(label, said.get(label, value)) for label, value in chosen]
    alarms = [("false-alarm budget", f"{FALSE_ALARMS:g}")] if "false-alarm budget" in known else []
    return [*short, *alarms, *([("power", power_sentence(power))] if power else [])]


def _alarms(records: Sequence[Record], tests: int) -> tuple[str, str]:
    """Returns how the one false-alarm budget of the campaign was spent."""
    single = sum(len(judged.aggregates) for record in records for judged in record.judgements)
    text = (
        f"{FALSE_ALARMS:g} for the whole campaign: {single:,} tests of single cases at {PER_TEST:g} each "
        f"(paid for: {CAPACITY:,}), {plural(tests, 'pooled test')} share the other half"
    )
    return "false-alarm budget", text


def _environment(environments: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Returns every environment value; where the records differ, all values, the most frequent first."""
    values: dict[str, Counter[str]] = {}
    for environment in environments:
        for name, value in _facts("", environment):
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
