"""A speed exists only beside a kernel that is right before, while and after it is timed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from harness import speed as speed_module
from harness.candidates import find_candidates
from harness.cases import case_from_data
from harness.execute import Worker
from harness.records import Record, Verdict
from harness.speed import Speed, compiled, measure_speed
from harness.timing import BASELINE
from harness.verify import Settings
from tests.harness.odd_candidates import CANDIDATES

CASE: dict[str, Any] = {"op": "rms_norm", "batch": 2, "tokens": 5, "channels": 24, "seed": 12}
BY_NAME = {item.name: item for item in CANDIDATES}


@pytest.fixture
def timed(odd_plugin: str) -> Callable[[str], Record]:
    """Returns a function that times the forward pass of one of the odd candidates in a worker of its own."""
    return lambda name: measured(name, odd_plugin, Speed(repeats=5, phases=("forward",)))


def measured(name: str, plugin: str, speed: Speed) -> Record:
    with Worker(limit_s=60.0) as worker:
        return measure_speed(case_from_data(CASE), [BY_NAME[name]], worker, Settings(plugin=plugin), speed)[0]


def test_a_right_kernel_has_a_time_for_every_phase_with_the_noise_of_its_rounds_and_a_floor(odd_plugin: str) -> None:
    record = measured("right", odd_plugin, Speed(repeats=5))
    assert [timing.phase for timing in record.timings] == ["forward", "backward", "forward+backward"]
    for timing in record.timings:
        assert timing.comparison is not None
        assert timing.comparison.baseline == BASELINE
        assert timing.comparison.noise is not None
        assert timing.comparison.noise > 0
        assert timing.floor_us is not None
        assert 0 < timing.floor_us < timing.median_us


def test_what_is_timed_of_a_call_can_be_chosen(odd_plugin: str) -> None:
    record = measured("right", odd_plugin, Speed(repeats=3, phases=("forward", "forward+backward")))
    assert [timing.phase for timing in record.timings] == ["forward", "forward+backward"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled where there is a CUDA device")
def test_what_an_interpreter_runs_here_is_told_from_what_is_compiled() -> None:
    installed = find_candidates().candidates
    pair = [installed[name] for name in ("triton-silu-mul-fp32", "torch-silu-mul-fp32")]
    case = case_from_data({"op": "silu_mul", "dtype": "float32", "batch": 1, "tokens": 4, "channels": 8})
    with Worker(limit_s=60.0) as worker:
        found = compiled(case, pair, worker, Settings())
    assert [item.name for item in found] == ["torch-silu-mul-fp32"]


def test_a_kernel_beside_a_wrong_baseline_has_no_time(odd_plugin: str) -> None:
    pair = [BY_NAME[name] for name in ("right", "one-percent-more")]
    with Worker(limit_s=60.0) as worker:
        speed = Speed(repeats=3, baseline="one-percent-more")
        records = measure_speed(case_from_data(CASE), pair, worker, Settings(plugin=odd_plugin), speed)
    assert [(record.verdict, list(record.timings)) for record in records] == [
        (Verdict.PASS, []), (Verdict.FAIL_NUMERIC, []),
    ]  # fmt: skip


def test_a_time_below_its_floor_is_an_error_of_the_benchmark(
    timed: Callable[[str], Record], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(speed_module, "SLACK", 1e-9)
    record = timed("right")
    assert (record.verdict, list(record.timings)) == (Verdict.ERROR, [])
    assert "expected at least its floor" in record.reason


def test_a_wrong_kernel_has_no_time(timed: Callable[[str], Record]) -> None:
    record = timed("one-percent-more")
    assert (record.verdict, list(record.timings)) == (Verdict.FAIL_NUMERIC, [])


def test_a_kernel_that_dies_while_it_is_timed_has_no_time(timed: Callable[[str], Record]) -> None:
    record = timed("dies-when-timed")
    assert (record.verdict, list(record.timings)) == (Verdict.ERROR, [])
    assert record.reason.startswith("while it was timed")


def test_a_kernel_that_goes_wrong_after_some_calls_has_no_time(timed: Callable[[str], Record]) -> None:
    record = timed("tires")
    assert (record.verdict, list(record.timings)) == (Verdict.FAIL_NUMERIC, [])
    assert record.reason.startswith("while it was timed")


def test_a_kernel_that_goes_wrong_on_other_inputs_has_no_time(timed: Callable[[str], Record]) -> None:
    record = timed("remembers")
    assert (record.verdict, list(record.timings)) == (Verdict.FAIL_NUMERIC, [])
    assert record.reason.startswith("after it was timed")
