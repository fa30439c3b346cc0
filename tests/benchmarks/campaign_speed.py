"""Judged cases per second of the gate's profile, beside a plain loop over the same work.

``python -m tests.benchmarks.campaign_speed`` takes cases evenly from the plan of ``attest run --profile gate`` and
judges each on all its candidates in two ways, one process judging in either:

- today's tree: what a lane of a campaign does, its worker kept warm;
- a plain loop: for every judged case (one candidate on one case) a new worker process, new inputs, a reference and a
  budget of its own, the random executions of the budget one by one, Triton's interpreter as it comes.

Both must give the same verdict of every tensor, or the command fails. Each case is taken in the order A B B A; the
ratio is the median over the cases with its order-statistic interval, and that of all seconds. A profile of both ways
ends it: what their records say of each phase, and what is left, which is other calls for relations and new processes.
"""

import argparse
import contextlib
import functools
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from harness import budget, lane
from harness.candidates import find_candidates
from harness.cases import case_from_data
from harness.codec import from_json
from harness.emulators import attention
from harness.emulators.rounding import Random
from harness.execute import Worker
from harness.lane import Item
from harness.profiles import PROFILES
from harness.records import Record
from harness.timing import compare
from harness.verify import Settings, verify
from optimized.candidate import Candidate

__all__ = ["LIMIT", "Comparison", "compared", "main", "quick_plan"]

LIMIT = 4.0
"""Times as many judged cases per second as a plain loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One item both ways: seconds of each, in both rounds together, how many cases were judged, seconds by phase."""

    item: Item
    judged: int
    ours_s: float
    plain_s: float
    ours_phases: Counter[str]
    plain_phases: Counter[str]


class _One(Random):
    """One of the executions that ``Random`` makes at once."""

    def __init__(self, several: Random, index: int) -> None:
        super().__init__(1, 0)
        self._multipliers = several._multipliers[index : index + 1]
        self._offsets = several._offsets[index : index + 1]


@contextlib.contextmanager
def _one_by_one() -> Iterator[None]:
    """Makes the random executions of budgets one by one."""
    at_once = budget._run

    def run(row: Any, inputs: Any, recipe: Any, rounding: Any, tile: int, names: Any) -> dict[str, Tensor]:
        if not isinstance(rounding, Random) or rounding.samples == 1:
            return at_once(row, inputs, recipe, rounding, tile, names)
        parts = []
        for index in range(rounding.samples):
            with _numbered(index):
                parts.append(at_once(row, inputs, recipe, _One(rounding, index), tile, names))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    with mock.patch.object(budget, "_run", run):
        yield


@contextlib.contextmanager
def _numbered(index: int) -> Iterator[None]:
    """Lets the emulator of attention, whose samples take turns, know which sample the only one is."""

    def alone(function: Callable[..., Tensor], arithmetic: Any, *tensors: Tensor) -> Tensor:
        if arithmetic.samples > 1 or not isinstance(_innermost(arithmetic.rounding), _One):
            return function(arithmetic, *tensors)
        several = SimpleNamespace(
            samples=max(index + 1, 2), recipe=arithmetic.recipe, weights_format=arithmetic.weights_format
        )
        found = function(several, *tensors)
        return found[index : index + 1] if found.shape[0] > 1 else found

    with contextlib.ExitStack() as stack:
        for name in ("_by_tile", "_shift"):
            original = getattr(attention, name)
            stack.enter_context(mock.patch.object(attention, name, functools.partial(alone, original)))
        yield


def _innermost(rounding: Any) -> Any:
    while hasattr(rounding, "_rounding"):
        rounding = rounding._rounding
    return rounding


def quick_plan(count: int) -> list[Item]:
    """Returns so many items, evenly from the plan of the profile of the gate, its operations one after the other."""
    from harness.cli.run import _plan

    plan = sorted(
        _plan(PROFILES["gate"], list(find_candidates().candidates.values()), 0), key=lambda each: each.case.op
    )
    return [plan[index * len(plan) // count] for index in range(count)]


def compared(item: Item, candidates: Mapping[str, Candidate]) -> Comparison:
    """Judges an item both ways in the order A B B A.

    Raises:
        AssertionError: the two ways disagree.
    """

    def ours() -> list[Record]:
        return [from_json(line) for line in lane.verify_item(item.case.to_data(), item.candidates)]

    def plain() -> list[Record]:
        records = []
        for name in item.candidates:
            with _one_by_one(), Worker(module="tests.benchmarks.plain_worker") as worker:
                records += verify(case_from_data(item.case.to_data()), [candidates[name]], worker, Settings())
        return records

    seconds: dict[Callable[[], list[Record]], float] = {ours: 0.0, plain: 0.0}
    phases: dict[Callable[[], list[Record]], Counter[str]] = {ours: Counter(), plain: Counter()}
    found = []
    for arm in (ours, plain, plain, ours):
        started = time.perf_counter()
        found.append(arm())
        seconds[arm] += time.perf_counter() - started
        phases[arm] += _by_phase(found[-1], inputs_are_shared=arm is ours)
    for other in found[1:]:
        _require_same(item, found[0], other)
    return Comparison(
        item=item, judged=2 * len(found[0]), ours_s=seconds[ours], plain_s=seconds[plain], ours_phases=phases[ours],
        plain_phases=phases[plain],
    )  # fmt: skip


def _by_phase(records: Sequence[Record], *, inputs_are_shared: bool) -> Counter[str]:
    """Returns seconds by phase; every record of one case names the making of the inputs that they share."""
    sums: Counter[str] = Counter()
    for index, record in enumerate(records):
        phases = asdict(record.phases)
        if index and inputs_are_shared:
            del phases["inputs_s"]
        sums.update(phases)
    return sums


def _require_same(item: Item, ones: Sequence[Record], others: Sequence[Record]) -> None:
    for one, other in zip(ones, others, strict=True):
        told = [(record.verdict, [each.verdict for each in record.judgements]) for record in (one, other)]
        assert told[0] == told[1], f"{item.case.to_line()} {one.candidate}: {told[0]} and {told[1]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a line per case and the ratio; returns 1 when it is below the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=17, help="cases of the plan (default 17)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    lane.open_lane(Settings(), 1)
    candidates = find_candidates().candidates
    items = quick_plan(options.cases)
    lane.verify_item(items[0].case.to_data(), items[0].candidates)  # warm, as the lane of a campaign is
    sys.stdout.write(f"{'operation':26} {'judged':>6} {'ours s':>8} {'plain s':>8} {'ratio':>6}\n")
    results = []
    for item in items:
        result = compared(item, candidates)
        results.append(result)
        ratio = result.plain_s / result.ours_s
        figures = f"{result.judged:6} {result.ours_s:8.2f} {result.plain_s:8.2f} {ratio:6.1f}"
        sys.stdout.write(f"{item.case.op:26} {figures}\n")
        sys.stdout.flush()
    lane.close_lane()
    return _summary(results)


def _summary(results: Sequence[Comparison]) -> int:
    ours, plain = (sum(getattr(each, name) for each in results) for name in ("ours_s", "plain_s"))
    judged = sum(each.judged for each in results)
    # No noise beside it: each case ran both ways, and the limit is far from 1.
    case = compare([each.plain_s for each in results], [each.ours_s for each in results], noise=0.0)
    rates = f"ours {judged / ours:.2f}, plain loop {judged / plain:.2f}, ratio {plain / ours:.1f}"
    profiles = (
        ("ours", ours, [each.ours_phases for each in results]),
        ("plain loop", plain, [each.plain_phases for each in results]),
    )
    for name, whole, found in profiles:
        phases: Counter[str] = sum(found, Counter())
        shares = {phase.removesuffix("_s"): seconds / whole for phase, seconds in phases.items()}
        shares["rest"] = 1 - sum(shares.values())
        told = ", ".join(f"{phase} {share:.0%}" for phase, share in shares.items())
        sys.stdout.write(f"profile, {name}, {whole:.0f} s: {told}\n")
    sys.stdout.write(
        f"judged cases per second: {rates}\n"
        f"ratio of a case: median {case.ratio:.1f}, {case.low:.1f} to {case.high:.1f} (limit {LIMIT:g}); "
        "verdicts: the same\n"
    )
    return int(plain / ours < LIMIT or case.low < 1)


if __name__ == "__main__":
    raise SystemExit(main())
