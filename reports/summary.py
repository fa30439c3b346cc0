"""The records as Markdown, for a pull request or a terminal: totals, failures, one row per operation."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from harness.records import Record, Verdict
from reports.explain import dtype_of, gravest_judgement, ratio_gravity, reproduction
from reports.headline import headline
from reports.tables import open_records
from reports.text import number, plain

__all__ = ["summary_text"]

FAILURES_SHOWN = 20


def summary_text(records: Sequence[Record], run: Mapping[str, Any]) -> str:
    """Returns the summary as Markdown; nothing that a record says is read as markup."""
    first = headline(records, run)
    totals = ", ".join(f"{count:,} {verdict}" for verdict, count in first.totals.items())
    parts = [f"# {first.sentence}", first.scope, f"Verdicts: {totals}.", _per_op(records), _failures(records)]
    facts = "\n".join(f"- {_text(name, limit=60)}: {_text(value, limit=200)}" for name, value in first.facts)
    return "\n\n".join([*parts, "## Environment", facts]) + "\n"


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
