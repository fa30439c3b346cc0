"""What the campaign on a GPU does, step by step; every step is a command of the project in a process of its own."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.bench.shapes import TIMED

__all__ = ["Plan", "Step", "steps"]


_REHEARSED = ("torch-*",)
"""Candidates of a rehearsal: kernels under an interpreter would take its time."""


_KERNELS = ("triton-*", "flash4-*")
_ONE_OF_THEM = ("torch-rms-norm-bf16",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is asked for.

    Attributes:
        folder: where every step has a folder of its name.
        is_rehearsal: small, and without a GPU.
        jobs: lanes.
        candidates: names or patterns; all if empty.
        commit: of the checkout, which a copy without ``.git`` cannot tell.
    """

    folder: Path
    is_rehearsal: bool
    jobs: int
    candidates: Sequence[str] = ()
    commit: str = ""

    @property
    def device(self) -> str:
        """Where candidates run."""
        return "cpu" if self.is_rehearsal else "cuda"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command.

    Attributes:
        name: of the step, its folder and its log.
        words: arguments of Python.
        minutes: after which it is ended; what it has recorded until then stays.
        resume: arguments that go on with an earlier attempt; None begins again.
    """

    name: str
    words: Sequence[str]
    minutes: float
    resume: Sequence[str] | None = None

    def command(self, *, again: bool) -> list[str]:
        """Returns the command line; ``again`` where an earlier attempt left records."""
        return [sys.executable, *(self.resume if again and self.resume is not None else self.words)]


def steps(plan: Plan) -> list[Step]:
    """Returns the steps in their order: what the rest rests on first, what other machines can do as well last."""
    attest = ("-m", "harness")
    picked = [word for name in plan.candidates or _REHEARSED * plan.is_rehearsal for word in ("--candidate", name)]
    lanes = ["--jobs", str(plan.jobs)]
    judged = ["--device", plan.device, *lanes]
    # A relation costs a process of its own: textbook code, which has no state, is spared them.
    names = plan.candidates or (_ONE_OF_THEM if plan.is_rehearsal else _KERNELS)
    kernels = [word for name in names for word in ("--candidate", name)]
    small = ["--op", "rms_norm"] if plan.is_rehearsal else []

    def out(name: str) -> list[str]:
        return ["--out", str(plan.folder / name)]

    def check(name: str, *words: str, minutes: float, candidates: Sequence[str] = picked) -> Step:
        words = (*attest, "check", "--suite", *words, *judged, *candidates, *out(name))
        return Step(name=name, words=words, minutes=minutes)

    profile = "rehearsal" if plan.is_rehearsal else "gpu"
    fuzz = out("fuzz")[1]
    return [
        Step(
            name="machine", minutes=2,
            words=("-m", "harness.gpu.machine", "--device", plan.device, "--commit", plan.commit, *out("machine")),
        ),
        check("smoke", "smoke", *small, minutes=4),
        check("widths", "widths", "--op", "attention", minutes=6),
        Step(
            name="fuzz", minutes=9,
            words=(*attest, "run", "--profile", profile, *judged, *picked, "--out", fuzz),
            resume=(*attest, "run", "--resume", fuzz, *lanes),
        ),
        *(
            Step(
                name=f"bench-{op}", minutes=4,
                words=(
                    "-m", "harness.gpu.benchmark", "--op", op, "--device", plan.device, *out(f"bench-{op}"),
                    *(["--rehearse"] if plan.is_rehearsal else []),
                ),
            )
            for op in TIMED
        ),
        check("relations", "smoke", "--relations", "all", *small, minutes=8, candidates=kernels),
        check("past", "past", *small, minutes=4),
        Step(
            name="power", minutes=6,
            words=(
                *attest, "power", "--quick", "--device", plan.device, *lanes, *out("power"),
                *(["--op", "rms_norm", "--cases", "2"] if plan.is_rehearsal else []),
            ),
        ),
        Step(
            name="codegen", minutes=8,
            words=(
                *attest, "codegen", "--arch", "sm_90", "--quick", *lanes, *out("codegen"),
                *(["--op", "silu_mul"] if plan.is_rehearsal else []),
            ),
        ),
    ]  # fmt: skip
