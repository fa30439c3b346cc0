"""Counts false alarms: legal executions on many drawn cases, none of which may fail.

``python -m tests.variants.campaign --runs 5000`` prints runs, verdicts and the worst ratio per candidate, then the
number of false alarms and one line of reproduction for each; it exits with 1 if there is one.
"""

import argparse
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path

from harness.campaign import Item, lanes
from harness.candidates import find_candidates
from harness.ops import OPS
from harness.records import Record, Verdict
from harness.strategies import draw_cases
from harness.verify import Settings
from optimized.candidate import Candidate

__all__ = ["LEGAL", "Tally", "false_alarms", "main", "planned"]

HEALTHY = str(Path(__file__).with_name("healthy.py"))
LEGAL = frozenset({Verdict.PASS, Verdict.NO_POWER, Verdict.AMBIGUOUS})
"""AMBIGUOUS is no alarm: beyond its limit by at most a quarter once, and by nothing on four fresh seeds."""


@dataclass(slots=True)
class Tally:
    """What a candidate showed.

    Attributes:
        verdicts: how often each verdict.
        worst: largest ratio of an error or an aggregate to its limit.
    """

    verdicts: Counter[str] = field(default_factory=Counter)
    worst: float = 0.0

    def add(self, record: Record) -> None:
        """Counts a record."""
        self.verdicts[record.verdict.value] += 1
        self.worst = max(self.worst, worst_ratio(record))


def worst_ratio(record: Record) -> float:
    """Returns the largest ratio of an error or an aggregate of a record to its limit; NO_POWER judgements left out."""
    judged = [item for item in record.judgements if item.verdict is not Verdict.NO_POWER]
    elements = (item.max_ratio or 0.0 for item in judged)
    sums = (abs(each.value) / each.limit for item in judged for each in item.aggregates if each.limit > 0)
    return max(chain(elements, sums), default=0.0)


def planned(candidates: Sequence[Candidate], runs: int, *, seed: int, largest: int) -> list[Item]:
    """Returns work for at least ``runs`` runs, operations and formats in turn.

    Args:
        candidates: who runs.
        runs: number of runs, one candidate on one case each.
        seed: of the draw.
        largest: largest number of tokens.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for item in candidates:
        groups.setdefault((item.op, item.recipe.storage), []).append(item.name)
    count = math.ceil(runs / len(candidates))
    queues = []
    for (op, storage), names in groups.items():
        cases = draw_cases(OPS[op], count, seed_value=seed, dtypes=[storage], largest=largest)
        queues.append([Item(case, tuple(names)) for case in cases])
    return [item for item in chain.from_iterable(zip_longest(*queues)) if item is not None]


def false_alarms(records: Sequence[Record]) -> list[Record]:
    """Returns the records that a legal execution must not have."""
    return [record for record in records if record.verdict not in LEGAL]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the campaign and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5000, help="runs, one candidate on one case each (default 5000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (default 0)")
    parser.add_argument("--jobs", type=int, default=2, help="lanes in parallel (default 2)")
    parser.add_argument("--largest", type=int, default=80, help="largest number of tokens (default 80)")
    parser.add_argument("--op", action="append", choices=list(OPS), help="only this operation; may be repeated")
    options = parser.parse_args(arguments)
    candidates = [
        item for item in find_candidates(HEALTHY).candidates.values() if not options.op or item.op in options.op
    ]
    items = planned(candidates, options.runs, seed=options.seed, largest=options.largest)
    tallies = {item.name: Tally() for item in candidates}
    alarms: list[Record] = []
    started, done = time.monotonic(), 0
    with lanes(Settings(plugin=HEALTHY, limit_s=60.0), options.jobs) as pool:
        for record in pool.verify(items):
            done += 1
            tallies[record.candidate].add(record)
            if false_alarms([record]):
                alarms.append(record)
                _say(_alarm(record))
            if done % 500 == 0:
                _say(f"{done} runs, {len(alarms)} false alarms, {time.monotonic() - started:.0f} s")
    for line in table(candidates, tallies):
        _say(line)
    _say(f"{done} runs, {len(alarms)} false alarms, {time.monotonic() - started:.0f} s")
    return 1 if alarms else 0


def table(candidates: Sequence[Candidate], tallies: dict[str, Tally]) -> Iterator[str]:
    """Yields the lines of a table: operation, candidate, runs, verdicts, worst ratio."""
    yield f"{'operation':20} {'candidate':32} {'runs':>6} {'worst':>6}  verdicts"
    for item in sorted(candidates, key=lambda each: (each.op, each.name)):
        tally = tallies[item.name]
        verdicts = ", ".join(f"{name} {count}" for name, count in sorted(tally.verdicts.items()))
        yield f"{item.op:20} {item.name:32} {tally.verdicts.total():6} {tally.worst:6.2f}  {verdicts}"


def _alarm(record: Record) -> str:
    case = json.dumps(dict(record.case), separators=(",", ":"))
    return f"FALSE ALARM {record.candidate} {record.verdict.value} {worst_ratio(record):.3g} {record.reason}\n  {case}"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
