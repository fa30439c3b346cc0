"""What runs inside a lane: a process that makes inputs, reference and budget, and owns one worker for candidates.

Functions here take and return JSON data and lines of JSON, so that an engine may call them in any process.
"""

import atexit
import json
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from typing import Any

import torch

from harness.candidates import find_candidates
from harness.cases import case_from_data
from harness.codec import to_json
from harness.execute import Worker
from harness.operations.case import Case
from harness.power.resolution import Doses, smallest_doses
from harness.power.runs import Run, run_case
from harness.records import Record
from harness.resources import share_of_memory
from harness.shrink import shrink
from harness.speed import Speed, compiled, measure_speed
from harness.verify import Settings, verify
from optimized.candidate import Candidate

__all__ = [
    "Item",
    "close_lane",
    "compiled_of_item",
    "doses_of_item",
    "gpu_of",
    "open_lane",
    "power_of_item",
    "shrink_item",
    "speed_of_item",
    "start_lane",
    "verify_item",
]


@dataclass(frozen=True, slots=True)
class Item:
    """A piece of work: one case on the candidates of its operation and dtype."""

    case: Case
    candidates: tuple[str, ...]


@dataclass(slots=True)
class _Lane:
    settings: Settings
    worker: Worker
    candidates: Mapping[str, Candidate]


_lane: list[_Lane] = []


def start_lane(settings: Settings, jobs: int, started: "Synchronized[int]") -> None:
    """Turns a process of the campaign's own pool into a lane.

    Args:
        settings: how cases are run.
        jobs: number of lanes that share the machine.
        started: how many lanes were started before this one; on several GPUs each takes its own.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the campaign, which ends its lanes itself
    signal.signal(signal.SIGTERM, _end_lane)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    with started.get_lock():
        index = started.value
        started.value += 1
    if settings.device == "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu_of(index, os.environ.get("CUDA_VISIBLE_DEVICES"))
    open_lane(settings, jobs)


def gpu_of(index: int, visible: str | None) -> str:
    """Returns the GPU of a lane, as CUDA_VISIBLE_DEVICES names it: lanes take them in turn.

    Args:
        index: number of the lane.
        visible: CUDA_VISIBLE_DEVICES of the campaign; None means all.
    """
    names = [name.strip() for name in (visible or "").split(",") if name.strip()]
    names = names or [str(number) for number in range(torch.cuda.device_count())]
    return names[index % len(names)] if names else ""


def open_lane(settings: Settings, jobs: int) -> None:
    """Gives this process its worker; does nothing where it has one for the same settings already."""
    if _lane and _lane[0].settings == settings:
        return
    close_lane()
    torch.set_num_threads(settings.threads)
    worker = Worker(
        device=settings.device,
        threads=settings.threads,
        limit_s=settings.limit_s,
        memory_bytes=share_of_memory(jobs) if settings.device == "cpu" else None,
    )
    atexit.register(worker.close)
    _lane.append(_Lane(settings, worker, find_candidates(settings.plugin).candidates))


def close_lane() -> None:
    """Ends this process' worker, if it has one."""
    while _lane:
        _lane.pop().worker.close()


def _end_with_parent(parent: int) -> None:
    """Ends the lane when the campaign is gone, however it went: nobody would ever tell the lane."""
    while os.getppid() == parent:
        time.sleep(1.0)
    _end_lane()


def _end_lane(*_: object) -> None:
    for lane in _lane:
        lane.worker.kill()
    os._exit(1)


def verify_item(data: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Returns the records of a case on candidates, as lines of JSON."""
    lane = _lane[0]
    records = verify(case_from_data(data), [lane.candidates[name] for name in names], lane.worker, lane.settings)
    return [_line(record) for record in records]


def power_of_item(data: Mapping[str, Any], pairs: Sequence[tuple[str, str, str]]) -> list[Run]:
    """Returns the runs of a case on seeded faults, given as key, wrong candidate and healthy twin."""
    lane = _lane[0]
    found = [(key, lane.candidates[wrong], lane.candidates[healthy]) for key, wrong, healthy in pairs]
    return run_case(case_from_data(data), found, lane.worker, lane.settings)


def doses_of_item(data: Mapping[str, Any]) -> Doses:
    """Returns the smallest planted error of each kind that is caught on a case."""
    return smallest_doses(case_from_data(data))


def shrink_item(data: Mapping[str, Any], name: str) -> str:
    """Returns the record of the smallest case that fails like this one, as a line of JSON."""
    lane = _lane[0]

    def judge(case: Case) -> Record:
        return verify(case, [lane.candidates[name]], lane.worker, lane.settings)[0]

    return _line(shrink(case_from_data(data), judge))


def compiled_of_item(position: int, data: Mapping[str, Any], names: Sequence[str]) -> tuple[int, tuple[str, ...]]:
    """Returns a position as it came, and the candidates whose kernels no interpreter runs here."""
    lane = _lane[0]
    candidates = [lane.candidates[name] for name in names]
    found = compiled(case_from_data(data), candidates, lane.worker, lane.settings)
    return position, tuple(candidate.name for candidate in found)


def speed_of_item(data: Mapping[str, Any], names: Sequence[str], speed: Speed) -> list[str]:
    """Returns the verified and timed records of a case on candidates, as lines of JSON."""
    lane = _lane[0]
    candidates = [lane.candidates[name] for name in names]
    records = measure_speed(case_from_data(data), candidates, lane.worker, lane.settings, speed)
    return [_line(record) for record in records]


def _line(record: Record) -> str:
    return json.dumps(to_json(record), allow_nan=False)
