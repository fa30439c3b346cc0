"""Intervals cover as often as they say; on six models of noise, equal kernels raise no alarm and 5 % are seen."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from harness.bench.stopwatch import prepared, time_rounds
from harness.timing import SAME, Ratio, compare, interval, is_settled, noise_of, verdict_of
from tests.harness.timing_models import CALLS, MODELS, arms

COUNTS = (8, 11, 21, 31, 64)
TRIALS = 300
ALARMS = ("FASTER", "SLOWER")
USABLE = [name for name in MODELS if name != "wild"]
"""Machines on which 5 % can be told."""


def coverage(count: int, low: int, high: int) -> float:
    """Returns the probability that the median lies between two order statistics of independent values.

    Exact for any continuous distribution: as many of ``count`` values lie below the median as heads fall.

    Args:
        count: number of values.
        low: rank of the lower one, from 0.
        high: rank of the upper one, from 0.
    """
    return sum(math.comb(count, below) for below in range(low + 1, high + 1)) / 2.0**count


def ranks(count: int) -> tuple[int, int]:
    """Returns the ranks, from 0, of the interval of that many values."""
    _, low, high = interval([float(value) for value in range(count)])
    return int(low), int(high)


@pytest.mark.parametrize("count", COUNTS)
def test_the_interval_covers_the_median_with_at_least_99_percent(count: int) -> None:
    assert coverage(count, *ranks(count)) >= 0.99


@pytest.mark.parametrize("count", COUNTS)
def test_no_narrower_interval_would(count: int) -> None:
    low, high = ranks(count)
    assert coverage(count, low + 1, high - 1) < 0.99


@pytest.mark.parametrize("count", [1, 2, 7])
def test_of_few_values_the_interval_is_the_whole_range(count: int) -> None:
    assert ranks(count) == (0, count - 1)


def test_the_interval_covers_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    trials, count = 2000, 21
    drawn = torch.rand(trials, count, generator=generator, dtype=torch.float64).exp()
    covered = 0
    for row in drawn:
        _, low, high = interval(row.tolist())
        covered += low <= math.exp(0.5) <= high
    expected = coverage(count, *ranks(count))
    # Five standard deviations of a binomial number of hits.
    spread = 5 * math.sqrt(trials * expected * (1 - expected))
    assert abs(covered - trials * expected) <= spread


# -- verdicts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "noise", "verdict"),
    [
        (0.03, 0.05, 0.01, "SLOWER"),
        (0.03, 0.05, 0.04, "AMBIGUOUS"),
        (0.01, 0.05, 0.0, "AMBIGUOUS"),
        (-0.05, -0.03, 0.01, "FASTER"),
        (-0.05, -0.03, 0.04, "AMBIGUOUS"),
        (-0.01, 0.01, 0.01, "SAME"),
        (-0.01, 0.01, 0.03, "AMBIGUOUS"),
        (-0.03, 0.01, 0.01, "AMBIGUOUS"),
    ],
)
def test_a_verdict_is_beyond_the_smallest_effect_and_the_noise(
    low: float, high: float, noise: float, verdict: str
) -> None:  # fmt: skip
    assert verdict_of(low, high, noise) == verdict


def test_too_few_rounds_give_no_verdict() -> None:
    assert [compare([2.0] * count, [1.0] * count, noise=0.0).verdict for count in (7, 8)] == ["AMBIGUOUS", "SLOWER"]


def test_a_ratio_is_the_inverse_of_the_other_way_round() -> None:
    theirs, ours, again = time_rounds(arms("loud", 3, 1.0, 1.3), rounds=31)
    noise = noise_of(theirs, again)
    one, other = compare(ours, theirs, noise=noise), compare(theirs, ours, noise=noise)
    # One exponential each, of numbers below 1: a few units in the last place.
    assert (1 / other.ratio, 1 / other.high, 1 / other.low) == pytest.approx(
        (one.ratio, one.low, one.high), rel=16 * 2**-53
    )


# -- rates on models of noise ----------------------------------------------------------------------------------------

Measure = Callable[[str, int, float], str]


def measured(model: str, seed: int, factor: float) -> str:
    """Returns the verdict on a candidate that takes ``factor`` times as long, as ``attest bench`` comes to it."""
    theirs, ours, again = time_rounds(arms(model, seed, 1.0, factor), rounds=21, most=168)
    return compare(ours, theirs, noise=noise_of(theirs, again)).verdict


def false_alarms(measure: Measure, model: str) -> int:
    return sum(measure(model, seed, 1.0) in ALARMS for seed in range(TRIALS))


@pytest.mark.parametrize("model", MODELS)
def test_equal_kernels_raise_at_most_one_alarm_in_a_hundred(model: str) -> None:
    assert 100 * false_alarms(measured, model) <= TRIALS


@pytest.mark.parametrize("model", USABLE)
@pytest.mark.parametrize(("factor", "verdict"), [(1.05, "SLOWER"), (1 / 1.05, "FASTER")])
def test_five_percent_are_called_by_their_name_in_nineteen_of_twenty(
    model: str, factor: float, verdict: str
) -> None:  # fmt: skip
    called = [measured(model, seed, factor) for seed in range(60)]
    assert 20 * called.count(verdict) >= 19 * len(called)
    assert not set(ALARMS) - {verdict} & set(called)


@pytest.mark.parametrize("model", ["quiet", "heavy tails", "drift", "bimodal"])
def test_equal_kernels_are_mostly_called_the_same(model: str) -> None:
    called = [measured(model, seed, 1.0) for seed in range(60)]
    assert 20 * called.count("SAME") >= 19 * len(called)


def test_what_is_no_machine_to_measure_on_says_so() -> None:
    theirs, ours, again = time_rounds(arms("wild", 1, 1.0, 1.0), rounds=8)
    assert compare(ours, theirs, noise=noise_of(theirs, again)).verdict == "AMBIGUOUS"


def blocks(model: str, seed: int, factor: float) -> str:
    """The planted mistake of most benchmarks: all of one arm, then all of the other."""
    theirs, ours = arms(model, seed, 1.0, factor)
    first, second = ([arm.turn(CALLS) for _ in range(42)] for arm in (theirs, ours))
    return compare(second, first, noise=0.0).verdict


def one_way(model: str, seed: int, factor: float) -> str:
    """The planted mistake of turns that are never reversed."""
    theirs, ours = arms(model, seed, 1.0, factor)
    pairs = [(theirs.turn(CALLS), ours.turn(CALLS)) for _ in range(42)]
    return compare([two for _, two in pairs], [one for one, _ in pairs], noise=0.0).verdict


def own_turns(model: str, seed: int, factor: float) -> str:
    """The planted mistake of as many calls as each arm's first one suggests: that of one arm was interrupted."""
    theirs, ours = arms(model, seed, 1.0, factor)
    interrupted = replace(ours, once_s=10 * ours.once_s, calls=2)
    theirs_s, ours_s, again = time_rounds([theirs, interrupted], rounds=21, most=168)
    return compare(ours_s, theirs_s, noise=noise_of(theirs_s, again)).verdict


def bell_curve(model: str, seed: int, factor: float) -> str:
    """The planted mistake of an interval that needs many values: the mean and two standard errors of few rounds."""
    theirs, ours, _ = time_rounds(arms(model, seed, 1.0, factor), rounds=8)
    ratio = [one / other for one, other in zip(ours, theirs, strict=True)]
    middle, error = statistics.fmean(ratio), statistics.stdev(ratio) / math.sqrt(len(ratio))
    return verdict_of(math.log(max(middle - 2 * error, 1e-9)), math.log(middle + 2 * error))


def until_it_is_clear(model: str, seed: int, factor: float) -> str:
    """The planted mistake of measuring on until the candidate's verdict is one."""
    machine = arms(model, seed, 1.0, factor)
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(40):
        first, second, _ = time_rounds(machine, rounds=4)
        theirs, ours = theirs + first, ours + second
        found = compare(ours, theirs, noise=0.0).verdict
        if found in ALARMS:
            return found
    return found


@pytest.mark.parametrize(
    ("mistake", "model"),
    [
        (blocks, "bimodal"),
        (blocks, "drift"),
        (one_way, "drift"),
        (own_turns, "loud"),
        (bell_curve, "wild"),
        (until_it_is_clear, "wild"),
    ],
)
def test_a_planted_mistake_raises_more(mistake: Measure, model: str) -> None:
    assert 100 * false_alarms(mistake, model) > TRIALS


@pytest.mark.parametrize("model", MODELS)
def test_the_stop_looks_at_the_equal_arms_alone(model: str) -> None:
    slow, fast = (time_rounds(arms(model, 5, 1.0, factor), rounds=8, most=64) for factor in (1.0, 3.0))
    assert len(slow[0]) == len(fast[0])


# -- rounds ----------------------------------------------------------------------------------------------------------


def noted_passes(rounds: int) -> tuple[list[str], list[list[float]]]:
    """Returns every pass with the one backwards as letters, the baseline's ``a``, and the seconds."""
    calls: list[str] = []
    named = arms("quiet", 0, 1.0, 1.0)

    def noted(name: str) -> Callable[[int], float]:
        return lambda _: calls.append(name) or 1e-3  # type: ignore[func-returns-value]

    watched = [replace(arm, turn=noted(name)) for arm, name in zip(named, "ab", strict=True)]
    seconds = time_rounds(watched, rounds=rounds)
    return ["".join(calls[start : start + 6]) for start in range(0, len(calls), 6)], seconds


def test_a_round_is_passes_each_followed_by_itself_backwards_with_the_baseline_twice() -> None:
    passes, seconds = noted_passes(9)
    assert all(sorted(each[:3]) == ["a", "a", "b"] and each[3:] == each[2::-1] for each in passes)
    assert len(passes) == 9 * CALLS // 2
    assert [len(each) for each in seconds] == [9, 9, 9]


def test_every_arm_comes_at_every_place_as_often() -> None:
    """Else what a place does to a time, such as the clock of a core that was idle, is called the kernel's."""
    passes, _ = noted_passes(75)
    places = [sum(each[place] == "b" for each in passes) for place in range(3)]
    # Five standard deviations of a binomial number of a third each.
    assert max(abs(count - 100) for count in places) <= 5 * math.sqrt(300 * 2 / 9)


def test_arms_that_are_nearly_as_fast_make_as_many_calls() -> None:
    made: dict[str, set[int]] = {"a": set(), "b": set(), "c": set()}

    def counted(name: str) -> Callable[[int], float]:
        return lambda calls: made[name].add(calls) or 1e-3  # type: ignore[func-returns-value]

    (arm,) = arms("quiet", 0, 1.0)
    watched = [
        replace(arm, turn=counted(name), calls=calls, once_s=once)
        for name, calls, once in (("a", 25, 1.3e-3), ("b", 32, 1e-3), ("c", 4, 8e-3))
    ]
    time_rounds(watched, rounds=2)
    # Two passes and two backwards, as the slowest has it.
    assert made == {"a": {8}, "b": {8}, "c": {1}}


def test_a_round_counts_with_the_fastest_turn_of_either_way() -> None:
    (arm,) = arms("quiet", 0, 1.0)
    lasts = iter([9.0, 9.0, 9.0, 9.0, 4.0, 4.0, 1.0, 1.0])  # two turns of the arm and of itself again, four times
    ((first, *_), _) = time_rounds([replace(arm, calls=4, turn=lambda _: next(lasts))], rounds=1)
    assert first == pytest.approx(math.sqrt(4.0 * 1.0))


def test_rounds_go_on_while_the_noise_is_large_and_end_at_their_limit() -> None:
    quiet, loud = (time_rounds(arms(model, 2, 1.0, 1.0), rounds=8, most=32) for model in ("quiet", "wild"))
    assert (len(quiet[0]), len(loud[0])) == (8, 32)
    assert is_settled(quiet[0], quiet[-1])


def test_a_linear_drift_leaves_no_trace() -> None:
    theirs, ours, again = time_rounds(arms("drift", 1, 1.0, 1.0), rounds=64)
    # What is left is the turns' own noise of 0.004, halved twice by the means and then by the number of rounds.
    assert abs(statistics.fmean(math.log(one / other) for one, other in zip(ours, theirs, strict=True))) < 0.004
    assert noise_of(theirs, again) < SAME / 2


def test_a_callable_beside_itself_is_neither_faster_nor_slower() -> None:
    x = torch.ones(64, 64)
    sets: Sequence[Callable[[], object]] = [lambda: x @ x]
    theirs, ours, again = time_rounds([prepared(sets, "cpu", graphs=False) for _ in range(2)], rounds=11)
    found: Ratio = compare(ours, theirs, noise=noise_of(theirs, again))
    assert found.verdict in {"SAME", "AMBIGUOUS"}
