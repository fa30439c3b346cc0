"""Times device work in interleaved rounds: a CUDA graph per arm over rotated inputs, or the stream."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

__all__ = ["Arm", "device_seconds", "own_stream", "prepared", "time_rounds"]

_ROUND_S = 3e-3
"""A measurement lasts about this long: launch gaps and the resolution of events are far below."""

_MOST_CALLS = 40


@dataclass(frozen=True, slots=True)
class Arm:
    """Something to time.

    Attributes:
        launch: does ``calls`` calls, without waiting for them.
        calls: how many.
        how: ``graph``, ``stream`` or ``host``.
        sets: the calls themselves: a graph reads their inputs where they were, and holds none of them.
    """

    launch: Callable[[], object]
    calls: int
    how: str
    sets: Sequence[Callable[[], object]]


def own_stream(device: str) -> None:
    """Makes a stream of its own the current one, for good: torch captures no graph on the default stream."""
    if device == "cuda":
        torch.cuda.set_stream(torch.cuda.Stream())  # type: ignore[no-untyped-call]  # torch


def prepared(sets: Sequence[Callable[[], object]], device: str, *, graphs: bool) -> Arm:
    """Returns an arm of calls that do the same on different inputs, warmed up.

    Args:
        sets: one call per set of inputs; they are taken in turn.
        device: ``cpu`` or ``cuda``, where ``own_stream`` was called before anything else.
        graphs: whether a CUDA graph is tried.
    """
    for call in sets:
        call()
    if device != "cuda":
        return Arm(lambda: [call() for call in sets], len(sets), "host", sets)
    torch.cuda.synchronize()
    count = max(1, min(_MOST_CALLS, round(_ROUND_S / max(device_seconds(sets[0]), 1e-6))))
    count = -(-count // len(sets)) * len(sets)

    def launch() -> None:
        for index in range(count):
            sets[index % len(sets)]()

    if graphs:
        graph = _captured(launch)
        if graph is not None:
            graph.replay()
            torch.cuda.synchronize()
            return Arm(graph.replay, count, "graph", sets)
    return Arm(launch, count, "stream", sets)


def time_rounds(arms: Sequence[Arm], device: str, *, repeats: int) -> list[list[float]]:
    """Returns seconds per call of every arm and round; the order of the arms reverses every round."""
    seconds: list[list[float]] = [[] for _ in arms]
    order = list(range(len(arms)))
    for _ in range(repeats):
        for index in order:
            seconds[index].append(_measured_s(arms[index], device) / arms[index].calls)
        order.reverse()
    return seconds


def _measured_s(arm: Arm, device: str) -> float:
    if device != "cuda":
        started = time.perf_counter()
        arm.launch()
        return time.perf_counter() - started
    return device_seconds(arm.launch)


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
