"""Times arms in rounds: all arms in an order that is drawn, then all of them backwards; the first takes part twice.

On a GPU an arm is a CUDA graph of many calls over rotated inputs, measured by events; where a call cannot be captured,
the stream. On a CPU a turn is a few calls after one that is not timed, so that every arm finds its caches as it left
them. A round has many short turns, so that what a busy machine does for a while is done to every arm, and counts with
the fastest call: what a shared machine adds to a time is never negative. The fastest of few calls is slower than that
of many, so that arms that are nearly as fast as each other make as many.
"""

import contextlib
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch

from harness.timing import FEWEST, is_settled

__all__ = ["Arm", "device_seconds", "host_seconds", "on_own_stream", "own_stream", "prepared", "time_rounds"]

_ROUND_S = 3e-3
"""A measurement of a GPU lasts about this long: launch gaps and the resolution of events are far below."""

_MOST_CALLS = 40

_CALLS_S = 32e-3
"""The timed calls of an arm in a round on a CPU last about so long together, where that is no more than is allowed."""

_FEWEST, _MOST_CALLED, _LONG_S = 2, 32, 0.1
"""Timed calls of an arm in a round; a call that is longer than the last figure is timed once a turn."""

_MOST_PASSES = 8
"""Passes of a round, and as many backwards."""

_LOOKS, _LOOK_S = 3, 0.5
"""Calls that say how long one takes, as far as they fit in so many seconds."""

_ALIKE = 1.5
"""Arms whose calls differ by less make as many."""

_LONGEST_S, _LONGEST_WAIT_S = 10.0, 45.0
"""After so much work no round begins that is not needed, nor after so long: a busy machine gives a part of a core."""


@dataclass(frozen=True, slots=True)
class Arm:
    """Something to time.

    Attributes:
        launch: does ``calls`` calls, without waiting for them.
        turn: measures one turn and returns seconds per call; on the host it is told how many calls it has.
        calls: how many of a launch; on the host, of a round.
        how: ``graph``, ``stream`` or ``host``.
        sets: the calls themselves: a graph reads their inputs where they were, and holds none of them.
        results: what the last call of every set returned; of a graph, where a replay writes it.
        once_s: seconds that a call on the host took at least when the arm was made.
    """

    launch: Callable[[], object]
    turn: Callable[[int], float]
    calls: int
    how: str
    sets: Sequence[Callable[[], Any]]
    results: list[Any] = field(default_factory=list)
    once_s: float = 0.0


def own_stream(device: str) -> None:
    """Makes a stream of its own the current one, for good: torch captures no graph on the default stream."""
    if device == "cuda":
        torch.cuda.set_stream(torch.cuda.Stream())  # type: ignore[no-untyped-call]  # torch


@contextlib.contextmanager
def on_own_stream(device: str) -> Iterator[None]:
    """The same for a block, all forward calls of which have to be made in it."""
    if device != "cuda":
        yield
        return
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):  # type: ignore[no-untyped-call]  # torch
        yield
        torch.cuda.synchronize()


def prepared(sets: Sequence[Callable[[], Any]], device: str, *, graphs: bool) -> Arm:
    """Returns an arm of calls that do the same on different inputs, warmed up.

    Args:
        sets: one call per set of inputs; they are taken in turn.
        device: ``cpu`` or ``cuda``, where a stream of its own is current.
        graphs: whether a CUDA graph is tried.
    """
    results: list[Any] = [call() for call in sets]
    if device != "cuda":
        return _on_host(sets, results)
    torch.cuda.synchronize()
    count = max(1, min(_MOST_CALLS, round(_ROUND_S / max(device_seconds(sets[0]), 1e-6))))
    count = -(-count // len(sets)) * len(sets)

    def launch() -> None:
        for index in range(count):
            results[index % len(sets)] = sets[index % len(sets)]()

    if graphs:
        graph = _captured(launch)
        if graph is not None:
            graph.replay()
            torch.cuda.synchronize()
            return Arm(graph.replay, lambda _: device_seconds(graph.replay) / count, count, "graph", sets, results)
    return Arm(launch, lambda _: device_seconds(launch) / count, count, "stream", sets, results)


def _on_host(sets: Sequence[Callable[[], Any]], results: list[Any]) -> Arm:
    once = host_seconds(sets[0])
    for _ in range(1, min(_LOOKS, int(_LOOK_S / max(once, 1e-6)))):
        once = min(once, host_seconds(sets[0]))
    count = 1 if once > _LONG_S else max(_FEWEST, min(_MOST_CALLED, round(_CALLS_S / max(once, 1e-6))))

    def launch() -> None:
        for index, call in enumerate(sets):
            results[index] = call()

    def turn(calls: int) -> float:
        if once <= _LONG_S:
            # All sets: an arm that follows itself would find them in its caches, and one that follows another not.
            for call in sets:
                call()
        fastest = math.inf
        for number in range(calls):
            index = number % len(sets)
            call = sets[index]
            results[index] = None  # its memory is given back before the clock runs, and is free for this call
            started = time.perf_counter()
            results[index] = call()
            fastest = min(fastest, time.perf_counter() - started)
        return fastest

    return Arm(launch, turn, count, "host", sets, results, once)


def time_rounds(arms: Sequence[Arm], *, rounds: int, most: int | None = None) -> list[list[float]]:
    """Returns seconds per call of every arm and round, and last those of the first arm beside itself.

    A round is a few passes over the arms, each followed by itself backwards, so that a drift of the machine's speed
    cancels; its value is the geometric mean of the fastest turn of the passes and of those backwards. The order of
    every pass is drawn: where a time depends on when a turn comes and not on whose it is, equal arms are faster as
    often as slower, whatever the machine does.

    Args:
        arms: the first is the baseline.
        rounds: how many; of calls that take very long, fewer, but not fewer than an interval needs.
        most: how many at most, where the noise is not far below the smallest effect yet; None means ``rounds``.
    """
    own = (*arms, arms[0])
    passes, counts = _turns(own)
    seconds: list[list[float]] = [[] for _ in own]
    order = list(range(len(own)))
    chance = random.Random(len(own))
    work = time.process_time if all(arm.how == "host" for arm in arms) else time.monotonic
    began, worked = time.monotonic(), work()

    def goes_on() -> bool:
        count = len(seconds[0])
        if count < min(rounds, FEWEST):
            return True
        if work() - worked > _LONGEST_S or time.monotonic() - began > _LONGEST_WAIT_S:
            return False
        # Whole batches: to look after every round would be to stop at a lucky one.
        return count < rounds or count % rounds > 0 or (count < (most or 0) and not is_settled(seconds[0], seconds[-1]))

    while goes_on():
        there, back = [math.inf] * len(own), [math.inf] * len(own)
        for _ in range(passes):
            chance.shuffle(order)
            for fastest, way in ((there, order), (back, order[::-1])):
                for index in way:
                    fastest[index] = min(fastest[index], own[index].turn(counts[index]))
        for values, one, other in zip(seconds, there, back, strict=True):
            values.append(math.sqrt(one * other))
    return seconds


def _turns(arms: Sequence[Arm]) -> tuple[int, list[int]]:
    """Returns the passes of a round, and the calls of a turn of every arm: as many where a call takes nearly as long.

    The fastest of two calls is some percent slower than that of eight on a busy machine, round after round: no number
    of rounds tells that from a slower kernel, nor does an arm beside itself.
    """
    if any(arm.how != "host" for arm in arms):
        return 1, [arm.calls for arm in arms]
    calls = [arm.calls for arm in arms]
    by_speed = sorted(range(len(arms)), key=lambda index: arms[index].once_s)
    for faster, slower in pairwise(by_speed):
        if arms[slower].once_s <= _ALIKE * arms[faster].once_s:
            calls[slower] = calls[faster]
    passes = max(1, min(_MOST_PASSES, min(calls) // 2))
    return passes, [math.ceil(count / (2 * passes)) for count in calls]


def host_seconds(call: Callable[[], object]) -> float:
    """Returns how long a call takes on this thread's clock on the wall."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def device_seconds(call: Callable[[], object]) -> float:
    """Returns how long the device takes over what a call launches, by events on its stream."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]  # torch
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def _captured(launch: Callable[[], object]) -> "torch.cuda.CUDAGraph | None":
    """Returns a graph of the launch, or None where it cannot be captured (it synchronises, or asks the host)."""
    try:
        graph = torch.cuda.CUDAGraph()
        # Backward runs on the stream of its forward: all of it has to be the stream that is captured.
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            launch()
        torch.cuda.synchronize()
    except Exception:  # what a foreign kernel raises when it meets a capture is its own affair
        torch.cuda.synchronize()
        return None
    return graph
