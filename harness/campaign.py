"""Runs many cases over several lanes and writes every record as it comes.

A lane is a process that makes inputs, reference and budget, and owns one worker process for candidates. Lanes share
nothing; a record is in the store as soon as its case is done, so that an interrupted campaign can be resumed.
"""

import atexit
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from harness.candidates import find_candidates
from harness.cases import case_from_data
from harness.codec import from_json, to_json
from harness.errors import TestbenchError
from harness.execute import Worker
from harness.operations.case import Case
from harness.power.resolution import Doses, smallest_doses
from harness.power.runs import Run, run_case
from harness.records import Record
from harness.shrink import shrink
from harness.speed import Speed, measure_speed
from harness.verify import Settings, verify
from optimized.candidate import Candidate

__all__ = ["Item", "Lanes", "default_jobs", "lanes"]


@dataclass(frozen=True, slots=True)
class Item:
    """A piece of work: one case on the candidates of its operation and dtype."""

    case: Case
    candidates: tuple[str, ...]


def default_jobs() -> int:
    """Returns the number of lanes that the machine's cores can keep busy."""
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1))


class Lanes:
    """A pool of lanes.

    Args:
        settings: how cases are run.
        jobs: number of lanes.
    """

    def __init__(self, settings: Settings, jobs: int) -> None:
        self._settings = settings
        self._jobs = jobs
        self._pool = ProcessPoolExecutor(
            max_workers=jobs,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_lane,
            initargs=(settings,),
        )

    def verify(self, items: Iterable[Item]) -> Iterator[Record]:
        """Yields a record per case and candidate, in the order in which they are done.

        Raises:
            TestbenchError: a lane itself died.
        """
        for lines in self._each(_verify_item, ((item.case.to_data(), item.candidates) for item in items)):
            yield from (from_json(line) for line in lines)

    def shrink(self, records: Sequence[Record]) -> Iterator[Record]:
        """Yields, for failed records, the record of the smallest case that fails alike."""
        for line in self._each(_shrink_item, ((dict(item.case), item.candidate) for item in records)):
            yield from_json(line)

    def power(self, items: Iterable[tuple[Case, tuple[tuple[str, str, str], ...]]]) -> Iterator[list[Run]]:
        """Yields the runs of a case on seeded faults, given as key, wrong candidate and healthy twin."""
        return self._each(_power_item, ((case.to_data(), pairs) for case, pairs in items))

    def doses(self, cases: Iterable[Case]) -> Iterator[Doses]:
        """Yields, per case, the smallest planted error of each kind that is caught."""
        return self._each(_doses_item, ((case.to_data(),) for case in cases))

    def speed(self, items: Sequence[Item], speed: Speed) -> Iterator[Record]:
        """Yields verified records with times; one lane, so that nothing else runs beside what is timed."""
        for item in items:
            future = self._pool.submit(_speed_item, item.case.to_data(), item.candidates, speed)
            for line in _result(future):
                yield from_json(line)

    def finish(self) -> None:
        """Ends the lanes after what they are doing."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def kill(self) -> None:
        """Ends the lanes at once, whatever they do."""
        processes = list(getattr(self._pool, "_processes", {}).values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()

    def _each(self, function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        # A few items ahead are enough to keep lanes busy, and an interruption then loses little.
        pending: set[Future[Any]] = set()
        queue = iter(arguments)
        for each in queue:
            pending.add(self._pool.submit(function, *each))
            if len(pending) < 2 * self._jobs:
                continue
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield _result(future)
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield _result(future)


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


def _result(future: Future[Any]) -> Any:  # noqa: ANN401 - a future's own type
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise TestbenchError("a lane of the campaign died; the records so far are kept") from error


# -- inside a lane ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Lane:
    settings: Settings
    worker: Worker
    candidates: Mapping[str, Candidate]


_lane: list[_Lane] = []


def _start_lane(settings: Settings) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the campaign, which ends its lanes itself
    signal.signal(signal.SIGTERM, _end_lane)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    torch.set_num_threads(settings.threads)
    worker = Worker(device=settings.device, threads=settings.threads, limit_s=settings.limit_s)
    atexit.register(worker.close)
    _lane.append(_Lane(settings, worker, find_candidates(settings.plugin).candidates))


def _end_with_parent(parent: int) -> None:
    """Ends the lane when the campaign is gone, however it went: nobody would ever tell the lane."""
    while os.getppid() == parent:
        time.sleep(1.0)
    _end_lane()


def _end_lane(*_: object) -> None:
    for lane in _lane:
        lane.worker.kill()
    os._exit(1)


def _verify_item(data: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    lane = _lane[0]
    records = verify(case_from_data(data), [lane.candidates[name] for name in names], lane.worker, lane.settings)
    return [_line(record) for record in records]


def _power_item(data: Mapping[str, Any], pairs: Sequence[tuple[str, str, str]]) -> list[Run]:
    lane = _lane[0]
    found = [(key, lane.candidates[wrong], lane.candidates[healthy]) for key, wrong, healthy in pairs]
    return run_case(case_from_data(data), found, lane.worker, lane.settings)


def _doses_item(data: Mapping[str, Any]) -> Doses:
    return smallest_doses(case_from_data(data))


def _shrink_item(data: Mapping[str, Any], name: str) -> str:
    lane = _lane[0]

    def judge(case: Case) -> Record:
        return verify(case, [lane.candidates[name]], lane.worker, lane.settings)[0]

    return _line(shrink(case_from_data(data), judge))


def _speed_item(data: Mapping[str, Any], names: Sequence[str], speed: Speed) -> list[str]:
    lane = _lane[0]
    candidates = [lane.candidates[name] for name in names]
    records = measure_speed(case_from_data(data), candidates, lane.worker, lane.settings, speed)
    return [_line(record) for record in records]


def _line(record: Record) -> str:
    return json.dumps(to_json(record), allow_nan=False)
