"""Machines that no clock has seen: models of the noise of shared machines, for the statistics of the benchmark."""

import math
import random
from collections.abc import Callable, Mapping
from functools import partial

from harness.bench.stopwatch import Arm

__all__ = ["MODELS", "arms"]

CALLS = 8
"""Calls of a round; it counts with the fastest of either way, as on the host."""

Noise = Callable[[random.Random, int], float]
"""From a source of chance and the number of the turn, the logarithm by which a call of it is longer."""


def _heavy_tails() -> Noise:
    """A third of the calls meet a neighbour, some of them a very long one; in one turn of twenty every call does."""
    all_of_turn = [0]

    def noise(chance: random.Random, turn: int) -> float:
        if chance.random() < 0.05 / CALLS:
            all_of_turn[0] = turn
        is_met = all_of_turn[0] == turn or chance.random() < 0.3
        return chance.gauss(0, 0.008) + (math.log(chance.paretovariate(1.1)) if is_met else 0.0)

    return noise


def _drift(chance: random.Random, turn: int) -> float:
    """A clock that falls by 3 % per turn."""
    return 0.03 * turn + chance.gauss(0, 0.004)


def _bimodal() -> Noise:
    """A neighbour that comes and goes, and makes all slower by half while it is there."""
    there = [False]

    def noise(chance: random.Random, _: int) -> float:
        there[0] ^= chance.random() < 0.04 / CALLS
        return chance.gauss(0, 0.004) + (math.log(1.5) if there[0] else 0.0)

    return noise


MODELS: Mapping[str, Callable[[], Noise]] = {
    "quiet": lambda: lambda chance, _: chance.gauss(0, 0.002),
    "heavy tails": _heavy_tails,
    "drift": lambda: _drift,
    "bimodal": _bimodal,
    "loud": lambda: lambda chance, _: chance.gauss(0, 0.05),
    "wild": lambda: lambda chance, _: chance.gauss(0, 1.0),
}
"""By name, what makes the noise of one machine."""


def arms(model: str, seed: int, *factors: float) -> list[Arm]:
    """Returns arms of one machine, which take these multiples of a millisecond on it; its clock goes on by turns."""
    noise, chance, turns = MODELS[model](), random.Random(seed), [0]

    def turn(factor: float, calls: int) -> float:
        turns[0] += 1
        return 1e-3 * factor * math.exp(min(noise(chance, turns[0]) for _ in range(calls)))

    return [Arm(lambda: None, partial(turn, factor), CALLS, "host", [], once_s=1e-3 * factor) for factor in factors]
