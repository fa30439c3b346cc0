"""Counts false alarms: legal executions on many cases, drawn and directed, none of which may fail.

``python -m tests.variants.campaign --runs 5000`` prints runs, verdicts and the worst ratio by operation, dtype and kind
of case, the speed, and one line of reproduction for each false alarm; it exits with 1 if there is one. One case in five
is of a degenerate kind. With ``--state FILE`` calls add up: runs that are in the file are not run again, and another
seed goes on with other cases.
"""

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path

from harness.campaign import Item, lanes
from harness.candidates import find_candidates
from harness.operations.case import Case
from harness.ops import OPS
from harness.strategies import draw_cases
from harness.verify import Settings
from optimized.candidate import Candidate
from tests.variants.degenerate import directed, kind_of
from tests.variants.tally import LEGAL, Seen, Tally, false_alarms, seen

__all__ = ["DRAWN", "LEGAL", "false_alarms", "main", "planned"]

HEALTHY = str(Path(__file__).with_name("healthy.py"))

DRAWN = "drawn"
"""Kind of a case that is none of the degenerate ones."""

EVERY = 5
"""One case in so many is of a degenerate kind."""

_BATCH = 25
"""Cases of an operation and format that are drawn at a time: fewer are the simplest ones that hypothesis knows."""

_BATCHES = 10_000
"""More batches than anybody has time for."""


def planned(
    candidates: Sequence[Candidate], *, seed: int, largest: int, every: int = EVERY
) -> Iterator[tuple[Item, str]]:
    """Yields work without end, with its kind: a case on all candidates of its operation and format, those in turn.

    Args:
        candidates: who runs.
        seed: of the draw.
        largest: largest number of tokens.
        every: one case in so many is of a degenerate kind.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for item in candidates:
        groups.setdefault((item.op, item.recipe.storage), []).append(item.name)
    for batch in range(_BATCHES):
        queues = [
            [(Item(case, tuple(names)), kind) for case, kind in _cases(op, storage, seed, batch, largest, every)]
            for (op, storage), names in groups.items()
        ]
        yield from (work for work in chain.from_iterable(zip_longest(*queues)) if work is not None)


def _cases(op: str, storage: str, seed: int, batch: int, largest: int, every: int) -> list[tuple[Case, str]]:
    """Returns a batch of cases of an operation and format with their kinds, in an order of their own."""
    order = random.Random(f"{seed}:{batch}:{op}:{storage}")
    seed_value = order.randrange(2**31)
    drawn = draw_cases(OPS[op], _BATCH, seed_value=seed_value, dtypes=[storage], largest=largest)
    order.shuffle(drawn)
    first = order.randrange(every)
    # Operations and formats begin at kinds of their own: a short campaign has then seen most kinds somewhere.
    kinds = random.Random(f"{seed}:{op}:{storage}").randrange(100) + batch * (_BATCH // every)
    found = []
    for index, case in enumerate(drawn):
        number = kinds + index // every
        is_directed = index % every == first
        found.append((directed(case, number), kind_of(number, op)) if is_directed else (case, DRAWN))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the campaign and returns the exit code."""
    options = _options(arguments)
    found = find_candidates(HEALTHY).candidates.values()
    candidates = [item for item in found if not options.op or item.op in options.op]
    tally = Tally(options.state)
    earlier, started = len(tally.runs), time.monotonic()
    for run in _run(
        planned(candidates, seed=options.seed, largest=options.largest, every=options.every), tally, options
    ):
        tally.add(run)
        done, seconds = len(tally.runs) - earlier, time.monotonic() - started
        if run.is_alarm:
            _say(_alarm(run))
        if done % 500 == 0:
            _say(f"{done} runs, {len(tally.alarms)} false alarms, {seconds:.0f} s")
    done, seconds = len(tally.runs) - earlier, time.monotonic() - started
    for line in chain(tally.candidates() if options.candidates else (), tally.lines()):
        _say(line)
    _say(f"{len(tally.runs)} runs, {len(tally.alarms)} false alarms")
    _say(f"{done} of them now, in {seconds:.0f} s, {done / max(seconds, 1e-9):.2f} runs per second")
    return 1 if tally.alarms else 0


def _run(plan: Iterator[tuple[Item, str]], tally: Tally, options: argparse.Namespace) -> Iterator[Seen]:
    """Yields the runs of a plan that are not in the tally yet, until there are enough or time is over."""
    ends = time.monotonic() + 60 * (options.minutes if options.minutes is not None else math.inf)
    kinds: dict[str, str] = {}
    counted = 0

    def items() -> Iterator[Item]:
        nonlocal counted
        for item, kind in plan:
            if counted >= options.runs or time.monotonic() > ends:
                return
            counted += len(item.candidates)
            missing = tally.missing(item.case.case_id, item.candidates)
            kinds[item.case.case_id] = kind
            if missing:
                yield Item(item.case, missing)

    with lanes(Settings(plugin=HEALTHY, limit_s=60.0), options.jobs) as pool:
        for record in pool.verify(items()):
            yield seen(record, kinds[record.case_id])


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5000, help="at least so many runs of the seed (default 5000)")
    parser.add_argument("--minutes", type=float, help="begin no further case after this time")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw; other seeds, other cases (default 0)")
    parser.add_argument("--state", type=Path, help="file that adds up the runs of several calls")
    parser.add_argument("--jobs", type=int, default=2, help="lanes in parallel (default 2)")
    parser.add_argument("--largest", type=int, default=80, help="largest number of tokens (default 80)")
    parser.add_argument("--every", type=int, default=EVERY, help=f"one degenerate case in so many (default {EVERY})")
    parser.add_argument("--op", action="append", choices=list(OPS), help="only this operation; may be repeated")
    parser.add_argument("--candidates", action="store_true", help="print the counts of every candidate, too")
    return parser.parse_args(arguments)


def _alarm(run: Seen) -> str:
    case = json.dumps(run.case, separators=(",", ":"))
    return f"FALSE ALARM {run.candidate} {run.verdict} {run.worst:.3g} {run.kind}: {run.reason}\n  {case}"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
