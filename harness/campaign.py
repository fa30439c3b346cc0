"""Runs many cases over several lanes and writes every record as it comes.

A lane is a process that makes inputs, reference and budget, and owns one worker process for candidates. Lanes share
nothing; a record is in the store as soon as its case is done, so that an interrupted campaign can be resumed. A lane
that dies takes no other with it: all are started again, and what they were doing is done again.
"""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from harness import lane
from harness.codec import from_json
from harness.errors import TestbenchError
from harness.lane import Item
from harness.operations.case import Case
from harness.power.resolution import Doses
from harness.power.runs import Run
from harness.records import Record
from harness.speed import Speed
from harness.verify import Settings

__all__ = ["DEATHS", "Item", "Lanes", "default_jobs", "lanes"]

DEATHS = 5
"""How often lanes may die in a campaign before it gives up: some case then kills every lane that it meets."""


def default_jobs() -> int:
    """Returns the number of lanes that the machine's cores can keep busy."""
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1))


_PATIENCE_S = 10.0
"""How long a lane may take to end its worker and itself."""


class Lanes:
    """A pool of lanes on this machine; on a machine with several GPUs each lane takes its own, in turn.

    Args:
        settings: how cases are run.
        jobs: number of lanes.
    """

    def __init__(self, settings: Settings, jobs: int) -> None:
        self._settings = settings
        self._jobs = jobs
        self._deaths = 0
        self._pool = self._started()

    def verify(self, items: Iterable[Item]) -> Iterator[Record]:
        """Yields a record per case and candidate, in the order in which they are done.

        Raises:
            TestbenchError: lanes died again and again.
        """
        for lines in self._each(lane.verify_item, ((item.case.to_data(), item.candidates) for item in items)):
            yield from (from_json(line) for line in lines)

    def shrink(self, records: Sequence[Record]) -> Iterator[Record]:
        """Yields, for failed records, the record of the smallest case that fails alike."""
        for line in self._each(lane.shrink_item, ((dict(item.case), item.candidate) for item in records)):
            yield from_json(line)

    def power(self, items: Iterable[tuple[Case, tuple[tuple[str, str, str], ...]]]) -> Iterator[list[Run]]:
        """Yields the runs of a case on seeded faults, given as key, wrong candidate and healthy twin."""
        return self._each(lane.power_of_item, ((case.to_data(), pairs) for case, pairs in items))

    def doses(self, cases: Iterable[Case]) -> Iterator[Doses]:
        """Yields, per case, the smallest planted error of each kind that is caught."""
        return self._each(lane.doses_of_item, ((case.to_data(),) for case in cases))

    def compiled(self, items: Sequence[Item]) -> list[Item]:
        """Returns the items with the candidates that get a time: not those whose kernels an interpreter runs here."""
        each = ((position, item.case.to_data(), item.candidates) for position, item in enumerate(items))
        found = sorted(self._each(lane.compiled_of_item, each))
        return [Item(items[position].case, names) for position, names in found if names]

    def speed(self, items: Sequence[Item], speed: Speed) -> Iterator[Record]:
        """Yields verified records with times; one lane, so that nothing else runs beside what is timed."""
        each = ((item.case.to_data(), item.candidates, speed) for item in items)
        for lines in self._each(lane.speed_of_item, each, ahead=1):
            yield from (from_json(line) for line in lines)

    def finish(self) -> None:
        """Ends the lanes after what they are doing."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def kill(self) -> None:
        """Ends the lanes at once, whatever they do."""
        processes = list((getattr(self._pool, "_processes", None) or {}).values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(timeout=_PATIENCE_S)
            if process.is_alive():  # it was asked to end before it could listen
                process.kill()
                process.join()

    def _started(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(
            max_workers=self._jobs,
            mp_context=context,
            initializer=lane.start_lane,
            initargs=(self._settings, self._jobs, context.Value("i", 0)),
        )

    def _each(
        self, function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], *, ahead: int | None = None
    ) -> Iterator[Any]:  # fmt: skip
        """Yields what a function returns for each of the arguments, in the order in which they are done.

        Args:
            function: runs in a lane.
            arguments: of every call.
            ahead: calls in flight; a few more than lanes keep them busy, and an interruption then loses little.
        """
        queue = iter(arguments)
        again: deque[tuple[Any, ...]] = deque()
        pending: dict[Future[Any], tuple[Any, ...]] = {}
        while True:
            while len(pending) < (ahead or 2 * self._jobs):
                each = again.popleft() if again else next(queue, None)
                if each is None:
                    break
                pending[self._submit(function, each)] = each
            if not pending:
                return
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            died = False
            for future in done:
                each = pending.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    died = True
                    again.append(each)
                else:
                    yield result
            if died:
                again.extend(pending.values())
                pending.clear()
                self._restart()

    def _submit(self, function: Callable[..., Any], each: tuple[Any, ...]) -> Future[Any]:
        try:
            return self._pool.submit(function, *each)
        except BrokenProcessPool as error:
            broken: Future[Any] = Future()
            broken.set_exception(error)
            return broken

    def _restart(self) -> None:
        """Starts all lanes again after one of them died.

        Raises:
            TestbenchError: it happened too often.
        """
        self._deaths += 1
        if self._deaths > DEATHS:
            raise TestbenchError(f"campaign: lanes died {self._deaths} times; the records so far are kept")
        self.kill()
        self._pool = self._started()


@contextmanager
def lanes(settings: Settings, jobs: int) -> Iterator[Lanes]:
    """Gives lanes that end with the block."""
    pool = Lanes(settings, jobs)
    try:
        yield pool
    except BaseException:
        pool.kill()
        raise
    pool.finish()
