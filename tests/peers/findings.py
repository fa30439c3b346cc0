"""What the records of the campaign say of each peer: counts, and per failing tensor the smallest case that shows it."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.records import Record, Verdict

__all__ = ["CALL", "Finding", "Summary", "findings", "summaries"]

CALL = "call"
"""Stands for the judged tensor where a call raised or gave no answer, or broke a relation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One tensor of one candidate that failed.

    Attributes:
        candidate: who failed.
        output: ``out``, ``grad:query``, or ``call``.
        record: the smallest case that shows it.
        reason: what the judge says of this tensor there.
        failed: number of cases on which it failed.
    """

    candidate: str
    output: str
    record: Record
    reason: str
    failed: int


@dataclass(slots=True, kw_only=True)
class Summary:
    """What became of a candidate's cases.

    Attributes:
        candidate: its name.
        op: its operation.
        verdicts: how often each.
        declined: its sentences.
        worst: largest ratio of an element to its tolerance among the cases that passed.
        unchecked: outputs and gradients that it does not give.
    """

    candidate: str
    op: str
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    declined: dict[str, None] = field(default_factory=dict)
    worst: float = 0.0
    unchecked: dict[str, None] = field(default_factory=dict)

    @property
    def judged(self) -> int:
        """Number of cases that it did not decline."""
        return self.verdicts.total() - self.verdicts[Verdict.UNSUPPORTED]

    @property
    def failed(self) -> int:
        """Number of cases that failed."""
        return sum(count for verdict, count in self.verdicts.items() if verdict.is_failure)


def summaries(records: Sequence[Record]) -> list[Summary]:
    """Returns a summary per candidate, in the order in which they were first judged."""
    found: dict[str, Summary] = {}
    for record in records:
        summary = found.setdefault(record.candidate, Summary(candidate=record.candidate, op=record.op))
        summary.verdicts[record.verdict] += 1
        if record.verdict is Verdict.UNSUPPORTED:
            summary.declined[record.reason] = None
        if record.verdict is Verdict.PASS:
            summary.worst = max([summary.worst, *(item.max_ratio or 0.0 for item in record.judgements)])
        summary.unchecked.update(dict.fromkeys(record.unchecked))
    return list(found.values())


def findings(records: Sequence[Record]) -> list[Finding]:
    """Returns a finding per candidate and failing tensor, each with its smallest case."""
    shown: dict[tuple[str, str], list[tuple[Record, str]]] = defaultdict(list)
    for record in records:
        for output, reason in _failures(record).items():
            shown[record.candidate, output].append((record, reason))
    result = []
    for (candidate, output), each in sorted(shown.items()):
        record, reason = min(each, key=lambda pair: _size(pair[0].case))
        result.append(Finding(candidate=candidate, output=output, record=record, reason=reason, failed=len(each)))
    return result


def _failures(record: Record) -> dict[str, str]:
    """Returns the judge's sentence by failing tensor."""
    if not record.verdict.is_failure:
        return {}
    failed = {item.output: item.reason for item in record.judgements if item.verdict.is_failure}
    return failed or {CALL: record.reason}


def _size(case: Mapping[str, object]) -> float:
    """Returns how large a case is: the sum of the logarithms of its sizes, and options that are not the default."""
    sizes = [value for name, value in case.items() if type(value) is int and name not in {"seed", "schema"}]
    return sum(math.log2(1 + size) for size in sizes) + len(str(case)) / 1000
