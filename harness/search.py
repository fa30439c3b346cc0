"""Searches for hard cases instead of only sampling them: hypothesis climbs towards errors near their limit.

What is climbed is the largest ``|error| / tolerance`` of a case and the largest ``|value| / limit`` of its tests over
all elements, as the judge's records say them. A search goes in short rounds. In each, hypothesis draws cases, one in
four from scratch and the rest as a hard case with a few fields of another, and then moves the best of them field by
field (its phases ``generate`` and ``target``). What was hard is a parent of the next round.
"""

import dataclasses
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings, target
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.hardest import Hard, Hardest, hardness
from harness.operations.base import Operation
from harness.operations.case import Case
from harness.records import Record
from harness.strategies import cases

__all__ = ["Space", "explore", "search"]

ROUND = 16
"""Cases of a round: the first ten are drawn, the rest are moves of the best of them."""

_PARENTS = 6
"""Hard cases that a round starts from."""

_IDLE = 20
"""Rounds without a case that is new, after which there is none."""

_CEILING = 1e6
"""Of what is climbed, because hypothesis wants finite numbers."""

_TOGETHER = (("batch", "tokens", "sequence_lengths"), ("query_lengths", "key_lengths"))
"""Fields that are valid only as they were drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Where one search goes.

    Attributes:
        row: the operation.
        dtype: storage dtype of its cases.
        seed: of the search; the same seed and the same records give the same cases.
        cases: number of cases; None means without end.
        regimes: value regimes; all of the operation's if None.
        largest: largest number of tokens.
        start: cases that are judged first, and are parents of the others.
    """

    row: Operation
    dtype: str
    seed: int
    cases: int | None = None
    regimes: Sequence[str] | None = None
    largest: int = 100
    start: tuple[Case, ...] = ()


def search(space: Space, judge: Callable[[Case], Sequence[Record]]) -> None:
    """Calls ``judge`` with one case after another, each of them once.

    Args:
        space: where to search.
        judge: returns the records of a case on all candidates; what it raises ends the search and comes out of it.
    """
    walk = _Walk(space, judge)
    for case in space.start[: space.cases]:
        walk.meet(case)
    idle = turn = 0
    while idle < _IDLE and (space.cases is None or walk.met < space.cases):
        before = walk.met
        _round(space, walk, space.seed * 1009 + turn)
        idle = idle + 1 if walk.met == before else 0
        turn += 1


class _Walk:
    """What one search has met, and how hard it was."""

    def __init__(self, space: Space, judge: Callable[[Case], Sequence[Record]]) -> None:
        self._space, self._judge = space, judge
        self._scores: dict[str, tuple[float, float]] = {}
        self._failed: set[str] = set()
        self.hardest = Hardest()
        self.raised: BaseException | None = None

    @property
    def met(self) -> int:
        """Number of cases that were judged."""
        return len(self._scores)

    def meet(self, case: Case) -> tuple[float, float]:
        """Returns ratio and gain of a case; a case that is not known yet is judged."""
        if case.case_id not in self._scores:
            records = self._judge(case)
            # What has failed is found: more of the same would hide the other candidates.
            self._failed |= {record.candidate for record in records if record.verdict.is_failure}
            found = [item for item in map(hardness, records) if item is not None and item.candidate not in self._failed]
            for item in found:
                self.hardest.add(item)
            self._scores[case.case_id] = _score(found)
        return self._scores[case.case_id]

    def attempt(self, case: Case) -> tuple[float, float]:
        """Does the same inside of hypothesis, which would take an error for a finding of its own."""
        if self._space.cases is not None and self.met >= self._space.cases and case.case_id not in self._scores:
            raise _EndError
        try:
            return self.meet(case)
        except BaseException as error:
            self.raised = error
            raise _EndError from error


class _EndError(BaseException):
    """Leaves hypothesis at once: it keeps no hold of what is no Exception."""


def _score(found: Sequence[Hard]) -> tuple[float, float]:
    ratio, gain = (max((getattr(item, name) for item in found), default=0.0) for name in ("ratio", "gain"))
    return min(ratio, _CEILING), min(gain, _CEILING)


def _round(space: Space, walk: _Walk, seed_value: int) -> None:
    parents = walk.hardest.cases(space.row.name, space.dtype)[:_PARENTS]

    @seed(seed_value)
    @settings(
        max_examples=ROUND, database=None, deadline=None, phases=[Phase.generate, Phase.target],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(_bred(space, parents))
    def climb(case: Case) -> None:
        ratio, gain = walk.attempt(case)
        target(ratio, label="ratio")
        target(gain, label="gain")

    try:
        climb()
    except _EndError:
        if walk.raised is not None:
            raise walk.raised from None


def _bred(space: Space, parents: Sequence[Case]) -> st.SearchStrategy[Case]:
    """Returns a strategy of new cases and of hard ones with some fields of a new one."""
    fresh = cases(space.row, dtypes=[space.dtype], regimes=space.regimes, largest=space.largest)
    if not parents:
        return fresh
    moved = st.lists(st.sampled_from(_groups(space.row.case)), min_size=1, max_size=3, unique=True)
    parent = st.one_of(st.just(parents[0]), st.sampled_from(parents))
    child = st.builds(_crossed, parent, fresh, moved)
    return st.one_of(fresh, child, child, child)


def _groups(case: type[Case]) -> list[tuple[str, ...]]:
    """Returns the fields of a case, those together that belong together."""
    names = [field.name for field in dataclasses.fields(case) if field.name != "dtype"]
    joined = [group for group in _TOGETHER if set(group) <= set(names)]
    taken = {name for group in joined for name in group}
    return [*joined, *((name,) for name in names if name not in taken)]


def _crossed(parent: Case, other: Case, groups: Sequence[tuple[str, ...]]) -> Case:
    """Returns a case with some fields of another; the other where the two do not go together."""
    try:
        return parent.replaced(**{name: getattr(other, name) for group in groups for name in group})
    except UsageError:
        return other


# -- several at a time -----------------------------------------------------------------------------------------------


def explore(spaces: Sequence[Space], judge: Callable[[Case], Sequence[Record]]) -> Iterator[Record]:
    """Yields the records of several searches as they come; each runs in a thread of its own.

    Hypothesis runs in one thread at a time and a search waits for its records alone, so that its cases do not depend on
    the others. Whoever stops listening stops the searches after the case that each is at.

    Args:
        spaces: the searches.
        judge: as of ``search``; it is called from several threads.

    Raises:
        BaseException: what ``judge`` raised.
    """
    turn = threading.Lock()
    news: queue.SimpleQueue[Sequence[Record] | BaseException | None] = queue.SimpleQueue()
    is_over = threading.Event()

    def waiting(case: Case) -> Sequence[Record]:
        turn.release()
        try:
            records = judge(case)
        finally:
            turn.acquire()
        if is_over.is_set():
            raise _EndError
        news.put(records)
        return records

    def one(space: Space) -> None:
        try:
            with turn:
                search(space, waiting)
        except _EndError:
            pass
        except BaseException as error:
            news.put(error)
        news.put(None)

    threads = [threading.Thread(target=one, args=(space,), daemon=True) for space in spaces]
    for thread in threads:
        thread.start()
    try:
        yield from _heard(news, len(threads))
    finally:
        is_over.set()


def _heard(news: "queue.SimpleQueue[Any]", left: int) -> Iterator[Record]:
    while left:
        item = news.get()
        if item is None:
            left -= 1
        elif isinstance(item, BaseException):
            raise item
        else:
            yield from item
