"""How often the gate calls a tree worse that did not change: ``python -m tests.gate.runs --runs 50``.

Every run draws other cases by a fresh seed; each is compared with the baseline that one run left. Prints, for every
injected regression beside them, whether it tripped and what was said of it.
"""

import argparse
import datetime as dt
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.cases import case_from_data
from harness.execute import Worker
from harness.ops import OPS
from harness.records import Record
from harness.speed import Speed, measure_speed
from harness.strategies import draw_cases
from harness.verify import Settings, verify
from reports.gate import Evidence, Trip, trips
from reports.gates.campaign import campaign_section
from reports.gates.speed import speed_section
from tests.gate.kernels import CHANGED

__all__ = ["CASES", "INJECTED", "REPEATS", "TIMED", "Gated", "main"]

PLUGIN = Path(__file__).with_name("kernels.py")
CASES = 24
REPEATS = 1001
TIMED: Mapping[str, Any] = {"op": "silu_mul", "dtype": "bfloat16", "batch": 1, "tokens": 64, "channels": 256}
INJECTED: Mapping[str, tuple[str, str]] = {
    "a gain of 0.1 %": ("CANDIDATES", "GAIN"),
    "softmax weights truncated": ("TRUNCATED_TWIN", "TRUNCATED"),
    "gradients lost": ("CANDIDATES", "NO_GRADIENT"),
    "cases declined": ("CANDIDATES", "REFUSING"),
}
"""What a change did to the kernel: as it was, as it is."""

_LARGEST = {"silu_mul": 12, "attention": 12}


class Gated:
    """Runs small campaigns and compares them.

    Args:
        worker: runs the kernels.
        cases: of a campaign.
    """

    def __init__(self, worker: Worker, *, cases: int = CASES) -> None:
        self._worker = worker
        self._cases = cases

    def campaign(self, name: str, seed: int) -> Evidence:
        """Returns what a campaign of a kernel leaves.

        Args:
            name: one of the plug-in's.
            seed: of the drawn cases.
        """
        candidates = CHANGED[name]
        op = candidates[0].op
        settings = Settings(plugin=f"{PLUGIN}:{name}")
        records: list[Record] = []
        drawn = draw_cases(OPS[op], self._cases, seed_value=seed, dtypes=["bfloat16"], largest=_LARGEST[op])
        for case in drawn:
            records += verify(case, candidates, self._worker, settings)
        asked = {"command": "fuzz", "op": op, "cases": self._cases, "seed": seed}
        return Evidence(sections={"campaign": campaign_section(records, asked)}, records=records)

    def timed(self, name: str, *, repeats: int) -> Evidence:
        """Returns what timing a kernel beside what it was before leaves."""
        settings = Settings(plugin=f"{PLUGIN}:{name}")
        case = case_from_data(TIMED)
        speed = Speed(repeats=repeats, baseline="kernel-before")
        records = measure_speed(case, CHANGED[name][:1], self._worker, settings, speed)
        asked = {"command": "bench", "op": "silu_mul"}
        sections = {"campaign": campaign_section(records, asked), "speed": speed_section(records)}
        return Evidence(sections=sections, records=records)


def compared(now: Evidence, before: Evidence) -> Sequence[Trip]:
    """Returns what the gate says."""
    return trips(now, before.sections, today=dt.datetime.now(dt.UTC).date())


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the figures; returns 1 when an unchanged tree tripped or an injected regression did not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50, help="runs of the unchanged tree (default 50)")
    parser.add_argument("--cases", type=int, default=CASES, help=f"cases of a run (default {CASES})")
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"paired repetitions (default {REPEATS})")
    asked = parser.parse_args(arguments)
    started = time.monotonic()
    wrong = 0
    say = sys.stdout.write
    with Worker() as worker:
        gated = Gated(worker, cases=asked.cases)
        baselines = {name: gated.campaign(name, 0) for name in sorted({was for was, _ in INJECTED.values()})}
        for what, (was, is_now) in INJECTED.items():
            for seed in (0, 1):
                found = compared(gated.campaign(is_now, seed), baselines[was])
                wrong += not found
                say(f"{what}, {'the same' if seed == 0 else 'fresh'} cases: {_told(found)}\n")
        before = gated.timed("AS_FAST", repeats=asked.repeats)
        found = compared(gated.timed("SLOWER", repeats=asked.repeats), before)
        wrong += not any("SLOWER" in trip.sentence for trip in found)
        say(f"10 % slower: {_told(found)}\n")
        tripped = 0
        for run in range(1, asked.runs + 1):
            found = [
                *compared(gated.campaign("CANDIDATES", run), baselines["CANDIDATES"]),
                *compared(gated.timed("AS_FAST", repeats=asked.repeats), before),
            ]
            tripped += bool(found)
            for trip in found:
                say(f"run {run}: {trip.sentence}\n")
    say(f"unchanged tree: {tripped} of {asked.runs} runs tripped, {asked.cases} fresh cases and a timing each\n")
    say(f"{time.monotonic() - started:.0f} s\n")
    return int(bool(wrong or tripped))


def _told(found: Sequence[Trip]) -> str:
    return f"{len(found)} trips, first: {found[0].sentence}" if found else "NOT TRIPPED"


if __name__ == "__main__":
    raise SystemExit(main())
