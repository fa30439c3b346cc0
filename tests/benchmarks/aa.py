"""The benchmark on itself, on this machine: how often equal kernels are called different, and 5 % are called SLOWER.

``python -m tests.benchmarks.aa --trials 100`` times a kernel beside itself so often, with fresh inputs, and then a
fifth as often a kernel that does the work of 21 heads beside one that does that of 20. A trial is one comparison of
``attest bench``: the same arms, rounds, stop and verdict. ``--neighbours N`` starts so many processes that work and
rest at random. Returns 1 when more than one alarm in a hundred is raised, or fewer than nineteen of twenty slowdowns
are called. Ctrl-C ends it with what was done.
"""

import argparse
import multiprocessing
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from harness.bench.pairs import timed_pair
from harness.bench.pinning import pinned
from harness.cli.bench import MORE_ROUNDS
from harness.timing import Ratio, compare, noise_of

__all__ = ["Trial", "main", "trial"]

HEADS = 20
"""One head more is 5 % more work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One comparison and the rounds that it took."""

    ratio: Ratio
    rounds: int


def trial(seed: int, *, more_heads: int, rounds: int) -> Trial:
    """Returns the comparison of a kernel of ``HEADS + more_heads`` heads with one of ``HEADS``.

    Args:
        seed: of the inputs.
        more_heads: additional work of the candidate.
        rounds: of the comparison, up to eight times as many on a noisy machine.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(3, HEADS + more_heads, 48, 64, generator=generator)

    # Both read the same memory, as two candidates of one case do.
    candidate, baseline = (partial(_kernel, *inputs, heads=heads) for heads in (HEADS + more_heads, HEADS))
    with pinned(1):
        pair = timed_pair([candidate], [baseline], "cpu", rounds=rounds, most=MORE_ROUNDS * rounds)
    ours, theirs, again = pair.seconds
    return Trial(ratio=compare(ours, theirs, noise=noise_of(theirs, again)), rounds=len(ours))


def _kernel(query: Tensor, key: Tensor, value: Tensor, *, heads: int) -> dict[str, Tensor | None]:
    parts = [torch.softmax(query[head] @ key[head].mT, -1) @ value[head] for head in range(heads)]
    return {"out": torch.stack(parts)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the counts and returns 1 when one of the two limits is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100, help="comparisons of equal kernels (default 100)")
    parser.add_argument("--rounds", type=int, default=21, help="of a comparison, as of attest bench (default 21)")
    parser.add_argument("--neighbours", type=int, default=0, help="processes that disturb (default 0)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    context = multiprocessing.get_context("spawn")
    disturbers = [context.Process(target=_disturb, args=(seed,), daemon=True) for seed in range(options.neighbours)]
    for process in disturbers:
        process.start()
    equal: list[Trial] = []
    slower: list[Trial] = []
    try:
        for seed in range(options.trials):
            equal.append(trial(seed, more_heads=0, rounds=options.rounds))
            if seed % 5 == 0:
                slower.append(trial(seed, more_heads=1, rounds=options.rounds))
            sys.stderr.write(f"\r{seed + 1} of {options.trials}")
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted: what follows is what was done\n")
    finally:
        for process in disturbers:
            process.terminate()
    alarms = sum(each.ratio.verdict in {"FASTER", "SLOWER"} for each in equal)
    called = sum(each.ratio.verdict == "SLOWER" for each in slower)
    sys.stdout.write(f"equal kernels: {alarms} of {len(equal)} called different; {_told(equal)}\n")
    sys.stdout.write(f"5 % more work: {called} of {len(slower)} called SLOWER; {_told(slower)}\n")
    return int(100 * alarms > len(equal) or 20 * called < 19 * len(slower))


def _told(trials: Sequence[Trial]) -> str:
    """Returns verdicts, ratios, noise and rounds of trials in a few words."""
    if not trials:
        return "none was finished"
    verdicts = ", ".join(f"{name} {count}" for name, count in sorted(Counter(t.ratio.verdict for t in trials).items()))
    ratios = sorted(each.ratio.ratio for each in trials)
    noise = [100 * each.ratio.noise for each in trials]
    rounds = [each.rounds for each in trials]
    return (
        f"{verdicts}; ratios {ratios[0]:.3f} to {ratios[-1]:.3f}, noise {statistics.median(noise):.1f} % in the "
        f"middle and at most {max(noise):.1f} %, {statistics.median(rounds):g} rounds in the middle"
    )


def _disturb(seed: int) -> None:
    """Works and rests at random, without end."""
    torch.set_num_threads(1)
    chance = random.Random(seed)
    x = torch.randn(256, 256)
    while True:
        until = time.monotonic() + chance.expovariate(1 / 0.05)
        while time.monotonic() < until:
            x = torch.tanh(x @ x)
        time.sleep(chance.expovariate(1 / 0.05))


if __name__ == "__main__":
    raise SystemExit(main())
