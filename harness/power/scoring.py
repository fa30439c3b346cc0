"""Which fault meets which case, and when it has met enough of them.

Faults of one operation, dtype, reach and value regimes share their cases, and so inputs, truth and budgets. All meet
the first few cases; only those that no case has caught yet go on, up to the number that was asked for.
"""

import functools
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from harness.errors import UsageError
from harness.operations.case import Case
from harness.ops import operation
from harness.power.catalogue import Entry
from harness.power.resolution import Doses
from harness.power.runs import Run
from harness.power_results import OURS
from harness.strategies import draw_cases

__all__ = ["FIRST", "Group", "Met", "Pairs", "Pool", "groups_of", "play", "stages"]

Pairs = tuple[tuple[str, str, str], ...]
"""Key, wrong candidate and healthy twin of the faults that meet a case."""

FIRST = 16
"""Cases that every fault meets."""

_PROBE = 2
"""Cases after which a fault that ends or hangs its worker has met enough: each costs a new worker."""

_BREAKING = frozenset({"MEM", "API", "DET"})
"""Detectors of faults that may raise, crash or hang; any other fault that does is badly seeded."""

_BLOCK = 20
"""Cases drawn at once."""


@dataclass(slots=True, kw_only=True)
class Met:
    """A fault and what it has shown so far.

    Attributes:
        entry: the fault.
        runs: its runs, in the order of the cases.
    """

    entry: Entry
    runs: list[tuple[int, Run]] = field(default_factory=list)

    @property
    def reached(self) -> list[tuple[int, Run]]:
        """The runs that count: the fault did something, and was not merely a candidate that broke down."""
        return [(number, run) for number, run in self.runs if not run.is_equivalent and not self._is_broken(run)]

    @property
    def broken(self) -> int:
        """Runs that ended in ERROR or TIMEOUT although the fault is of another kind."""
        return sum(self._is_broken(run) for _, run in self.runs)

    @property
    def is_caught(self) -> bool:
        """Whether attest has caught it."""
        return any(run.caught[OURS] for _, run in self.reached)

    def _is_broken(self, run: Run) -> bool:
        meant = _BREAKING.intersection(self.entry.fault.detectors)
        return not meant and run.detector in {"error", "timeout"}

    @property
    def is_fatal(self) -> bool:
        """Whether it ended or hung a worker."""
        return any(run.is_fatal for _, run in self.runs)


class Pool(Protocol):
    """Where cases run: the lanes of a campaign, or this process."""

    def power(self, items: Iterable[tuple[Case, Pairs]]) -> Iterator[list[Run]]:
        """Yields the runs of a case on faults and their twins."""
        ...

    def doses(self, cases: Iterable[Case]) -> Iterator[Doses]:
        """Yields, per case, the smallest planted error of each kind that is caught."""
        ...


class Group:
    """Faults that share their cases.

    Args:
        met: of one operation, dtype, reach, regimes and largest size.
        seed: of the draw.
        largest: cap on the number of tokens, or None.
    """

    def __init__(self, met: Sequence[Met], *, seed: int, largest: int | None = None) -> None:
        self.met = list(met)
        first = self.met[0].entry
        self._fault, self._dtype, self._seed = first.fault, first.dtype, seed
        self._largest = min(self._fault.largest, largest or self._fault.largest)
        self._cases: list[Case] = []
        self._blocks = itertools.count()

    def cases(self, start: int, stop: int) -> list[Case]:
        """Returns cases by number, the same for the same seed.

        Raises:
            UsageError: the fault's reach fits none of the operation's cases.
        """
        while len(self._cases) < stop:
            self._draw(next(self._blocks))
        return self._cases[start:stop]

    def _draw(self, block: int) -> None:
        row = operation(self._fault.op)
        pool = list(self._fault.regimes or row.case.regimes)
        turn = (block * _BLOCK) % len(pool)
        regimes = (*pool[turn:], *pool[:turn])
        drawn = _drawn(row.name, self._dtype, regimes, self._largest, self._seed + 1_000_003 * block)
        fitting, refusal = [], ""
        for case in drawn:
            try:
                fitting.append(case.replaced(**self._fault.reach))
            except (UsageError, TypeError) as error:
                refusal = str(error)
        if not fitting:
            raise UsageError(f"--catalogue: fault {self._fault.id} ({self._fault.name}) reaches no case: {refusal}")
        known = {case.case_id for case in self._cases}
        fresh = [case for case in fitting if case.case_id not in known]
        # A reach that fixes almost everything leaves few different cases: take new seeds then.
        self._cases += fresh or [case.replaced(seed=case.seed ^ (block + 1)) for case in fitting]


@functools.cache
def _drawn(op: str, dtype: str, regimes: tuple[str, ...], largest: int, seed: int) -> tuple[Case, ...]:
    """Returns a block of cases; faults that differ in their reach alone start from the same."""
    row = operation(op)
    return tuple(draw_cases(row, _BLOCK, seed_value=seed, dtypes=[dtype], regimes=regimes, largest=largest))


def groups_of(entries: Sequence[Entry], *, seed: int, largest: int | None = None) -> list[Group]:
    """Returns the faults in groups that share their cases; a recipe of its own shares inputs and truth alone."""
    found: dict[str, list[Met]] = {}
    for entry in entries:
        fault = entry.fault
        key = repr((fault.op, entry.dtype, sorted(fault.reach.items()), fault.regimes, fault.largest))
        found.setdefault(key, []).append(Met(entry=entry))
    return [Group(met, seed=seed, largest=largest) for met in found.values()]


def stages(cases: int) -> list[tuple[int, int]]:
    """Returns the numbers of the cases that are run before it is asked again who needs more."""
    marks = [0, *(mark for mark in (_PROBE, FIRST, *range(2 * FIRST, cases, 2 * FIRST)) if mark < cases), cases]
    return list(itertools.pairwise(marks))


def play(
    groups: Sequence[Group],
    pool: Pool,
    *,
    cases: int,
    shown: Callable[[Iterator[list[Run]], int, str], Iterator[list[Run]]],
    until: float = math.inf,
) -> list[Run]:
    """Runs the faults on their cases, fills in what they have met, and returns the runs of the healthy twins.

    Args:
        groups: the faults.
        pool: where they run.
        cases: most cases of a fault.
        shown: passes results on and shows how far it is, given their number and a label.
        until: ``time.monotonic()`` after which what was not caught by the first cases gets no more.
    """
    healthy: list[Run] = []
    met = {each.entry.key: each for group in groups for each in group.met}
    for start, stop in stages(cases):
        if start >= FIRST and time.monotonic() > until:
            break
        work = [item for group in groups for item in _work(group, start, stop)]
        if not work:
            break
        numbers = {(pair[0], case.case_id): number for number, case, pairs in work for pair in pairs}
        label = f"cases {start + 1} to {stop} of {len({key for key, _ in numbers})} faults"
        for run in itertools.chain.from_iterable(shown(pool.power(_interleaved(work)), len(work), label)):
            if run.is_healthy:
                healthy.append(run)
            else:
                met[run.subject].runs.append((numbers[run.subject, run.case_id], run))
    for each in met.values():
        each.runs.sort(key=lambda pair: pair[0])
    return healthy


def _work(group: Group, start: int, stop: int) -> list[tuple[int, Case, Pairs]]:
    """Returns number, case and pairs of what a group still needs."""
    going = [each.entry for each in group.met if _goes_on(each, start)]
    if not going:
        return []
    pairs = tuple((entry.key, entry.wrong.name, entry.healthy.name) for entry in going)
    return [(number, case, pairs) for number, case in enumerate(group.cases(start, stop), start=start)]


def _goes_on(met: Met, start: int) -> bool:
    if met.is_fatal and start >= _PROBE:
        return False
    return start < FIRST or not met.is_caught


def _interleaved(work: Sequence[tuple[int, Case, Pairs]]) -> Iterator[tuple[Case, Pairs]]:
    """Yields the work of all operations in turn, so that the time left can be told early."""
    queues: dict[str, list[tuple[Case, Pairs]]] = {}
    for _, case, pairs in work:
        queues.setdefault(case.op, []).append((case, pairs))
    for row in itertools.zip_longest(*queues.values()):
        yield from (item for item in row if item is not None)
