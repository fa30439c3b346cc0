"""The records as Markdown, for a pull request or a terminal: totals, failures, one row per operation."""

import re
from collections import Counter
from collections.abc import Sequence

import pandas as pd

from harness.power_results import PowerResults
from harness.records import Record, Verdict
from reports.declined import unsupported_table
from reports.explain import dtype_of, gravest_judgement, ratio_gravity, reproduction
from reports.headline import Headline, power_headline
from reports.power_tables import power_sentence
from reports.tables import open_records
from reports.text import MISSING, number, percent, plain, plural

__all__ = ["benchmark_text", "power_text", "summary_text"]

FAILURES_SHOWN = 20
REASONS_SHOWN = 12


def summary_text(
    records: Sequence[Record], first: Headline, speed: pd.DataFrame, power: PowerResults | None = None
) -> str:  # fmt: skip
    """Returns the summary as Markdown; nothing that a record says is read as markup.

    Args:
        records: at least one.
        first: what is said first.
        speed: the speed table.
        power: score of the judge, where it is joined.
    """
    totals = ", ".join(f"{count:,} {verdict}" for verdict, count in first.totals.items())
    parts = [f"# {first.sentence}", first.scope, f"Verdicts: {totals}."]
    parts += [f"- over the whole campaign: {_text(sentence, limit=300)}" for sentence in first.beyond[:FAILURES_SHOWN]]
    parts += [_per_op(records), _failures(records), _declined(records), _speed(speed)]
    parts += [_power(power)] if power else []
    return "\n\n".join([*filter(None, parts), *_environment(first)]) + "\n"


def power_text(results: PowerResults) -> str:
    """Returns the summary of a score of the judge alone."""
    first = power_headline(results)
    return "\n\n".join([f"# {first.sentence}", first.scope, _power(results), *_environment(first)]) + "\n"


def benchmark_text(first: Headline, speed: pd.DataFrame) -> str:
    """Returns the summary of a benchmark alone."""
    beyond = "\n".join(f"- {_text(sentence, limit=300)}" for sentence in first.beyond[:FAILURES_SHOWN])
    parts = [f"# {first.sentence}", first.scope, beyond, _speed(speed), *_environment(first)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _environment(first: Headline) -> list[str]:
    facts = "\n".join(f"- {_text(name, limit=60)}: {_text(value, limit=200)}" for name, value in first.facts)
    return ["## Environment", facts]


def _declined(records: Sequence[Record]) -> str:
    frame = unsupported_table(records)
    if frame.empty:
        return ""
    counts: Counter[tuple[str, str]] = Counter()
    for op, reason, cases in zip(frame["op"], frame["reason"], frame["cases"], strict=True):
        counts[op, reason] += cases
    lines = ["## Unsupported", ""]
    for (op, reason), count in counts.most_common(REASONS_SHOWN):
        lines.append(f"- {_text(op, limit=60)}, {plural(count, 'case')}: {_text(reason, limit=200)}")
    if len(counts) > REASONS_SHOWN:
        lines.append(f"- and {len(counts) - REASONS_SHOWN:,} more reasons in `unsupported.csv`")
    return "\n".join(lines)


def _speed(frame: pd.DataFrame) -> str:
    """Returns how the times compare, per candidate and phase; every time is in the CSV file."""
    frame = frame[frame["ratio"].notna()]
    if frame.empty:
        return ""
    lines = ["## Speed", "", "| candidate | phase | times | median ratio to the baseline | baseline |"]
    lines.append("|---|---|---:|---:|---|")
    groups = sorted(
        frame.groupby(["candidate", "phase", "baseline"]), key=lambda item: float(item[1]["ratio"].median())
    )
    for names, group in groups[:FAILURES_SHOWN]:
        candidate, phase, baseline = (_text(str(name), limit=60) for name in names)
        ratio = number(float(group["ratio"].median()))
        lines.append(f"| {candidate} | {phase} | {len(group):,} | {ratio} | {baseline} |")
    if len(groups) > FAILURES_SHOWN:
        lines += ["", f"and {len(groups) - FAILURES_SHOWN:,} more in `speed.csv`"]
    return "\n".join(lines)


def _power(results: PowerResults) -> str:
    lines = [f"## Power\n\n{power_sentence(results)}.\n", "| rule | faults caught | false alarms |", "|---|---:|---:|"]
    for item in results.rules:
        share = percent(item.faults_caught / item.faults) if item.faults else MISSING
        lines.append(
            f"| {_text(item.rule, limit=60)} | {share} % of {item.faults:,} | {item.alarms:,} of {item.healthy:,} |"
        )
    return "\n".join(lines)


def _per_op(records: Sequence[Record]) -> str:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.op, []).append(record)
    lines = ["## Operations", "", "| operation | candidates | cases | PASS | failures | other | worst ratio |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|")
    for op, group in sorted(groups.items()):
        counts = Counter(record.verdict for record in group)
        failures = sum(count for verdict, count in counts.items() if verdict.is_failure)
        other = len(group) - failures - counts[Verdict.PASS]
        ratios = [judged.max_ratio for record in group for judged in record.judgements if judged.max_ratio is not None]
        worst = max(map(ratio_gravity, ratios), default=None)
        candidates = len({record.candidate for record in group})
        lines.append(
            f"| {_text(op, limit=60)} | {candidates} | {len(group):,} | {counts[Verdict.PASS]:,} | {failures:,} "
            f"| {other:,} | {number(worst)} |"
        )
    return "\n".join(lines)


def _failures(records: Sequence[Record]) -> str:
    opened = open_records(records)
    if not opened:
        return "## Failures and open verdicts\n\nNone."
    lines = ["## Failures and open verdicts", ""]
    for record in opened[:FAILURES_SHOWN]:
        judged = gravest_judgement(record)
        measured = judged is not None and judged.max_ratio is not None
        ratio = f", {number(judged.max_ratio)} times the tolerance" if judged and measured else ""
        subject = " / ".join(_text(part, limit=60) for part in (record.op, record.candidate, dtype_of(record)))
        lines.append(f"- **{record.verdict}** {subject}{ratio}: {_text(record.reason, limit=300)}")
        lines.append(f"  {_code(plain(reproduction(record), limit=1_500))}")
    if len(opened) > FAILURES_SHOWN:
        lines.append(f"- and {len(opened) - FAILURES_SHOWN:,} more in `failures.csv`")
    return "\n".join(lines)


def _text(value: str, *, limit: int) -> str:
    """Returns text in which every character that Markdown or HTML could read as markup is escaped."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&])", r"\\\1", plain(value, limit=limit))


def _code(text: str) -> str:
    """Returns a code span, fenced by more backticks than the text has in a row."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {text} {fence}" if longest else f"`{text}`"
