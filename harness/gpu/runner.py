"""Runs one step into a log of its own, ends it at its limit, and remembers how it ended."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.gpu.steps import Step

__all__ = ["OUTCOMES", "Outcome", "read_outcomes", "run_step", "write_outcomes"]

OUTCOMES = "steps.json"
"""File of the folder that says which steps ran, how they ended and how long they took."""

_GRACE_S = 15.0
"""Time in which a step that is told to end writes what it has."""

_ENDED = (0, 1)
"""Exit codes of a step that did all it had to; 1 says that a kernel failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a step ended.

    Attributes:
        code: its exit code; None if it was ended at its limit.
        seconds: of all attempts together.
        attempts: how often it was begun.
    """

    code: int | None
    seconds: float
    attempts: int = 1

    @property
    def has_ended(self) -> bool:
        """Whether it did all that it had to, so that a further call leaves it alone."""
        return self.code in _ENDED

    @property
    def sentence(self) -> str:
        """What is printed of it."""
        how = "ended at its limit" if self.code is None else f"exit code {self.code}"
        return f"{how}, {self.seconds:.0f} s" + (f", attempt {self.attempts}" if self.attempts > 1 else "")


def run_step(
    step: Step, folder: Path, environment: Mapping[str, str], *, limit_s: float, before: Outcome | None = None
) -> Outcome:
    """Runs a step and returns how it ended; its output goes to ``NAME.log``.

    A step that was begun before goes on where it can; where it cannot, what it left is put aside as ``NAME.1``.

    Args:
        step: the step.
        folder: of the campaign.
        environment: of the process.
        limit_s: seconds after which it is told to end.
        before: how its last attempt ended.
    """
    attempt = 1 if before is None else before.attempts + 1
    again = before is not None and (folder / step.name / "run.json").is_file()
    if before is not None and (step.resume is None or not again):
        again = False
        _put_aside(folder / step.name, attempt - 1)
    began = time.monotonic()
    with (folder / f"{step.name}.log").open("a", encoding="utf-8") as log:
        # A session of its own: everything that the step started ends with it.
        process = subprocess.Popen(
            step.command(again=again), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            env=environment, start_new_session=True,
        )  # fmt: skip
        try:
            code: int | None = process.wait(timeout=max(limit_s - _GRACE_S, 1.0))
        except subprocess.TimeoutExpired:
            code = None
            process.terminate()
            _wait(process)
        _end_group(process.pid)
    seconds = time.monotonic() - began + (0.0 if before is None else before.seconds)
    return Outcome(code=code, seconds=round(seconds, 1), attempts=attempt)


def read_outcomes(folder: Path) -> dict[str, Outcome]:
    """Returns how the steps of a folder ended so far."""
    path = folder / OUTCOMES
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {name: Outcome(**fields) for name, fields in found.items()}


def write_outcomes(folder: Path, outcomes: Mapping[str, Outcome]) -> None:
    """Writes how the steps ended."""
    text = json.dumps({name: asdict(outcome) for name, outcome in outcomes.items()}, indent=1)
    (folder / OUTCOMES).write_text(text + "\n", encoding="utf-8")


def _put_aside(left: Path, number: int) -> None:
    if left.exists():
        left.rename(left.with_name(f"{left.name}.{number}"))


def _wait(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(timeout=_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return  # nothing is left of it, as it should be
