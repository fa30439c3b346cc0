"""What the campaign on a GPU does, step by step; every step is a command of the project."""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.ops import OPS

__all__ = ["CAMPAIGN", "REHEARSAL", "Size", "Step", "steps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much of everything: the campaign, or its rehearsal.

    Attributes:
        cases: cases of a cheap operation.
        heavy: cases of attention and the delta rule.
        largest: largest number of tokens.
        power: options of the score of the judge.
    """

    cases: int
    heavy: int
    largest: int
    power: Sequence[str] = ("--quick",)


CAMPAIGN = Size(cases=120, heavy=300, largest=300)
REHEARSAL = Size(cases=3, heavy=3, largest=20, power=("--quick", "--op", "rms_norm", "--cases", "2"))

_HEAVY = ("attention", "gated_delta_rule", "varlen_attention")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command.

    Attributes:
        name: of the step, its folder and its log.
        command: what is run.
        minutes: after which it is ended; what it has recorded until then stays.
    """

    name: str
    command: Sequence[str]
    minutes: float


def steps(folder: Path, *, device: str, size: Size, jobs: int | None, candidates: Sequence[str]) -> list[Step]:
    """Returns the steps in their order.

    Args:
        folder: where each has a folder of its name.
        device: ``cuda``, or ``cpu`` for a rehearsal.
        size: how much.
        jobs: lanes; one per core if None.
        candidates: names or patterns; all if empty.
    """
    lanes = ["--jobs", str(jobs or os.cpu_count() or 1)]
    picked = [word for name in candidates for word in ("--candidate", name)]
    judged = ["--device", device, *lanes, *picked]

    def attest(name: str, *words: str, minutes: float) -> Step:
        command = [sys.executable, "-m", "harness", *words]
        return Step(name=name, command=command, minutes=minutes)

    def out(name: str) -> list[str]:
        return ["--out", str(folder / name)]

    def found() -> Iterator[Step]:
        yield attest("list", "list", "--json", minutes=2)
        yield attest("smoke", "check", "--suite", "smoke", *judged, *out("smoke"), minutes=6)
        for op in sorted(OPS, key=lambda name: name not in _HEAVY):
            count = size.heavy if op in _HEAVY else size.cases
            yield attest(
                f"fuzz-{op}", "fuzz", "--op", op, "--cases", str(count), "--largest", str(size.largest), *judged,
                *out(f"fuzz-{op}"), minutes=4,
            )  # fmt: skip
        yield attest("widths", "check", "--suite", "widths", *judged, *out("widths"), minutes=6)
        yield attest("past", "check", "--suite", "past", *judged, *out("past"), minutes=6)
        for op in OPS:
            yield attest(
                f"bench-{op}", "bench", "--op", op, "--device", device, *picked, *out(f"bench-{op}"), minutes=2
            )
        yield attest("power", "power", *size.power, *lanes, *out("power"), minutes=8)

    return list(found())
