"""What a campaign over healthy variants has seen so far: counts, worst ratios, alarms, and the file that adds it up."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from harness.records import Record, Verdict

__all__ = ["LEGAL", "Seen", "Tally", "false_alarms", "seen", "worst_ratio"]

LEGAL = frozenset({Verdict.PASS, Verdict.NO_POWER, Verdict.AMBIGUOUS})
"""AMBIGUOUS is no alarm: beyond its limit by at most a quarter once, and by nothing on four fresh seeds."""

_NEAR = 0.8
"""From this share of a limit on the case is kept, so that it can be looked at."""


def false_alarms(records: Sequence[Record]) -> list[Record]:
    """Returns the records that a legal execution must not have."""
    return [record for record in records if record.verdict not in LEGAL]


def worst_ratio(record: Record) -> float:
    """Returns the largest ratio of an error or an aggregate of a record to its limit; NO_POWER judgements left out."""
    judged = [item for item in record.judgements if item.verdict is not Verdict.NO_POWER]
    elements = (item.max_ratio or 0.0 for item in judged)
    sums = (each.excess for item in judged for each in item.aggregates)
    return max(chain(elements, sums), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One run: what is kept of its record.

    Attributes:
        op: operation.
        storage: dtype of the case.
        kind: degenerate kind, or ``drawn``.
        candidate: who ran.
        case_id: of the case.
        verdict: the judge's.
        worst: largest ratio of an error or an aggregate to its limit.
        reason: why it is not a pass.
        case: the case, where it failed or came near its limit.
    """

    op: str
    storage: str
    kind: str
    candidate: str
    case_id: str
    verdict: str
    worst: float
    reason: str = ""
    case: dict[str, Any] | None = None

    @property
    def is_alarm(self) -> bool:
        """Whether a legal execution must not have this verdict."""
        return self.verdict not in LEGAL


def seen(record: Record, kind: str) -> Seen:
    """Returns what is kept of a record."""
    case, worst = dict(record.case), worst_ratio(record)
    is_kept = record.verdict not in LEGAL or worst >= _NEAR
    return Seen(
        op=case["op"], storage=case["dtype"], kind=kind, candidate=record.candidate, case_id=record.case_id,
        verdict=record.verdict.value, worst=worst, reason=record.reason, case=case if is_kept else None,
    )  # fmt: skip


class Tally:
    """All runs so far, those of earlier calls with the same file included.

    Args:
        path: file that runs are read from and appended to; None keeps them in memory alone.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self.runs: list[Seen] = []
        self._done: dict[str, set[str]] = defaultdict(set)
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                self._keep(Seen(**json.loads(line)))

    def add(self, run: Seen) -> None:
        """Counts a run."""
        self._keep(run)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(run)) + "\n")

    def missing(self, case_id: str, names: Iterable[str]) -> tuple[str, ...]:
        """Returns the candidates that have not run on a case."""
        return tuple(name for name in names if name not in self._done[case_id])

    @property
    def alarms(self) -> list[Seen]:
        """The runs that a legal execution must not have."""
        return [run for run in self.runs if run.is_alarm]

    def lines(self) -> Iterator[str]:
        """Yields counts by operation, dtype and kind: runs, those without power, alarms, and the worst ratio."""
        yield f"{'':30} {'runs':>7} {'no power':>8} {'ambiguous':>9} {'alarms':>6} {'worst':>6}"
        yield from self._by("operation", lambda run: run.op)
        yield from self._by("dtype", lambda run: run.storage)
        yield from self._by("kind", lambda run: run.kind)
        yield from self._by("all", lambda run: "")  # noqa: ARG005 - one group

    def candidates(self) -> Iterator[str]:
        """Yields the same by candidate."""
        yield from self._by("candidate", lambda run: run.candidate)

    def _keep(self, run: Seen) -> None:
        self.runs.append(run)
        self._done[run.case_id].add(run.candidate)

    def _by(self, title: str, key: Any) -> Iterator[str]:
        groups: dict[str, list[Seen]] = defaultdict(list)
        for run in self.runs:
            groups[key(run)].append(run)
        for name, runs in sorted(groups.items()):
            counts = Counter(run.verdict for run in runs)
            alarms = sum(run.is_alarm for run in runs)
            worst = max(run.worst for run in runs)
            label = f"{title} {name}".strip()
            yield (f"{label:42} {len(runs):7} {counts['NO_POWER']:8} {counts['AMBIGUOUS']:9} {alarms:6} {worst:6.2f}")
