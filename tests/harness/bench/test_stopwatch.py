"""The stopwatch: what a captured graph reads stays where it was, and a turn counts with its fastest call."""

import gc
import time
import weakref
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from harness.bench import stopwatch


def test_an_arm_keeps_the_inputs_that_its_graph_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA graph replays addresses and holds no tensor: freed inputs are an illegal access on some later replay."""
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(stopwatch, "device_seconds", lambda _: 1.0)
    monkeypatch.setattr(stopwatch, "_captured", lambda _: SimpleNamespace(replay=lambda: None))
    values = torch.ones(4)
    reads = weakref.ref(values)
    arm = stopwatch.prepared([partial(torch.sum, values)], "cuda", graphs=True)
    del values
    gc.collect()
    assert arm.how == "graph"
    assert reads() is not None


def test_an_arm_keeps_what_the_last_call_of_every_set_returned() -> None:
    counts = [0, 100]

    def call(index: int) -> int:
        counts[index] += 1
        return counts[index]

    arm = stopwatch.prepared([partial(call, index) for index in (0, 1)], "cpu", graphs=False)
    arm.turn(arm.calls)
    assert arm.results == counts
    assert min(counts[0], counts[1] - 100) > 1


def test_a_turn_counts_with_its_fastest_call_and_not_with_its_first(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of the warm-up, of the choice of calls, and of a turn.
    lasts = iter([0.5, *[0.016] * 3, 9.0, 0.004, 0.003])
    clock = [0.0]

    def call() -> None:
        clock[0] += next(lasts)

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    arm = stopwatch.prepared([call], "cpu", graphs=False)
    assert arm.calls == 2
    assert arm.turn(arm.calls) == pytest.approx(0.003)


def test_a_call_that_was_interrupted_does_not_choose_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    lasts = iter([0.5, 0.03, 0.001, 0.02])
    clock = [0.0]

    def call() -> None:
        clock[0] += next(lasts)

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    arm = stopwatch.prepared([call], "cpu", graphs=False)
    assert arm.calls == 32
    assert arm.once_s == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("work_s", "wait_s", "rounds"), [(3.0, 3.0, 8), (0.001, 1.0, 46), (0.5, 0.6, 21)], ids=["long", "busy", "as asked"]
)
def test_rounds_end_after_so_much_work_or_waiting(
    work_s: float, wait_s: float, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy machine gives a part of a core: as much work is done there as on another, unless that takes too long."""
    worked, passed = [0.0], [0.0]

    def turn(_: int) -> float:
        worked[0] += work_s / 4  # two turns of the arm and of itself again
        passed[0] += wait_s / 4
        return 1e-3

    monkeypatch.setattr(time, "process_time", lambda: worked[0])
    monkeypatch.setattr(time, "monotonic", lambda: passed[0])
    arm = stopwatch.Arm(lambda: None, turn, 2, "host", [])
    asked = 60 if wait_s == 1.0 else 21
    assert len(stopwatch.time_rounds([arm], rounds=asked)[0]) == rounds


def test_a_long_call_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock: Iterator[float] = iter([0.0, 5.0, 10.0, 12.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    calls = [0]
    arm = stopwatch.prepared([lambda: calls.append(0)], "cpu", graphs=False)
    before = len(calls)
    assert arm.turn(arm.calls) == pytest.approx(2.0)
    assert len(calls) == before + 1
