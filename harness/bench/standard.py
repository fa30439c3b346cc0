"""Verifies and times the contenders of one standard shape after the other, in interleaved rounds.

What is timed is judged twice: the call before it is timed, and the outputs of the timed arm itself after it, on inputs
that no judge has seen before.
"""

import dataclasses
import json
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch

from harness.bench.arms import SetArm
from harness.bench.calls import PHASES
from harness.bench.ceilings import measure_ceilings
from harness.bench.contenders import Contender, contenders
from harness.bench.costs import Ceilings, cost, floor_us
from harness.bench.inputs import rotations, timed_inputs
from harness.bench.parts import PartJudge
from harness.bench.stopwatch import time_rounds
from harness.environment import snapshot
from harness.operations.base import Inputs, Operation
from harness.operations.case import Case
from harness.records import Verdict
from harness.timing import compare, interval, noise_of

__all__ = ["BEYOND", "SLACK", "Bench", "case_data"]

SLACK = 1.05
"""A share of the floor above this is no speed but an error of the benchmark; the ceilings vary by a few percent."""

BEYOND = "BEYOND_OURS"
"""In the place of a failure of a peer that states no recipe: its errors are beyond what ours promises, no fault."""

_MOST_SETS = 32


class Bench:
    """What all shapes of one call share.

    Args:
        row: the operation.
        device: where.
        dtype: storage dtype.
        repeats: interleaved rounds.
        graphs: whether CUDA graphs are used.
    """

    def __init__(self, row: Operation, device: str, dtype: str, repeats: int, *, graphs: bool) -> None:
        self._row, self._device, self._repeats, self._graphs = row, device, repeats, graphs
        self._contenders = contenders(row.name, dtype, device)
        self._functions: dict[str, Callable[..., Any]] = {}
        on_gpu = device == "cuda"
        self._ceilings = measure_ceilings(device) if on_gpu else Ceilings(copy_gb_s=None, matmul_tflop_s=None)

    def lines(self, case: Case, *, without: AbstractSet[str] = frozenset()) -> Iterator[dict[str, Any]]:
        """Yields a line per contender and phase; the last is ``complete``, one that lost the device ``is_fatal``.

        Args:
            case: the shape.
            without: names of contenders that lost the device before.
        """
        inputs = timed_inputs(case, self._device, 1)
        judge = PartJudge(self._row, case, inputs)
        sound: list[Contender] = []
        forward_only: set[str] = set()
        base = {
            "case": case_data(case), "ceilings": dataclasses.asdict(self._ceilings),
            "environment": snapshot(self._device, 1), "complete": False, "is_fatal": False,
        }  # fmt: skip
        verdicts, errors = {}, {}
        for each in self._contenders:
            if each.name in without:
                continue
            verdict, problem, errors[each.name] = self._verified(each, judge)
            is_lost = self._is_lost()
            if verdict == Verdict.ERROR.value and not each.is_ours and not is_lost:
                # What refuses to go backward here may still have a forward to compare with.
                verdict, again, errors[each.name] = self._verified(each, judge, with_gradients=False)
                problem, is_lost = f"{problem}; forward alone: {verdict} {again}".strip(), self._is_lost()
                forward_only.add(each.name)
            verdicts[each.name] = verdict
            if verdict in {Verdict.PASS.value, BEYOND} or (verdict.startswith("FAIL") and not each.is_ours):
                sound.append(each)
            said = {"verdict": verdict, "problem": problem, "errors": errors[each.name], "is_fatal": is_lost}
            yield {**base, **_bare(each, ""), **said}
        sets = [inputs, *self._more_inputs(case, inputs)]
        judge = PartJudge(self._row, case, sets[-1])
        for phase in PHASES:
            able = [each for each in sound if phase == PHASES[0] or each.name not in forward_only]
            for line in self._phase(case, sets, judge, able, phase):
                yield {**base, "verdict": verdicts[line["arm"]], **line}
        yield {**base, "complete": True, "arm": "", "is_ours": False, "phase": "", "verdict": "", "problem": ""}

    def _is_lost(self) -> bool:
        """Returns whether the device answers this process no more, as after an illegal access."""
        if self._device != "cuda":
            return False
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError:
            return True
        return False

    def _function(self, each: Contender) -> Callable[..., Any]:
        if each.name not in self._functions:
            self._functions[each.name] = each.load()
        return self._functions[each.name]

    def _verified(
        self, each: Contender, judge: PartJudge, *, with_gradients: bool = True
    ) -> tuple[str, str, dict[str, float]]:  # fmt: skip
        """Returns the verdict on a contender, a sentence unless it passed, and its errors."""
        try:
            found = judge.found(self._function(each), with_gradients=with_gradients)
            verdict, reason = judge.judged_values(found, each.recipe)
        except Exception as error:
            return Verdict.ERROR.value, _sentence(error), {}
        return _named(verdict, each), reason, judge.errors(found)

    def _more_inputs(self, case: Case, inputs: Inputs) -> Iterator[Inputs]:
        for seed in range(2, max(2, rotations(inputs, self._device, most=_MOST_SETS)) + 1):
            yield timed_inputs(case, self._device, seed)

    def _phase(
        self, case: Case, sets: Sequence[Inputs], judge: PartJudge, sound: Sequence[Contender], phase: str
    ) -> list[dict[str, Any]]:
        """Returns a line per contender: its times, and its pairs with all others."""
        lines: list[dict[str, Any]] = []
        arms: list[tuple[Contender, SetArm]] = []
        for each in sound:
            try:
                arm = SetArm(self._row, self._function(each), sets, phase, self._device, graphs=self._graphs)
                arms.append((each, arm))
            except Exception as error:
                lines.append({**_bare(each, phase), "problem": _sentence(error), "is_fatal": self._is_lost()})
                if lines[-1]["is_fatal"]:
                    return lines
        if not arms:
            return lines
        # The first arm runs twice: what its two arms differ by is what the measurement cannot tell apart.
        *measured, again = time_rounds([arm.arm for _, arm in arms], rounds=self._repeats)
        noise = noise_of(measured[0], again)
        seconds = {each.name: values for (each, _), values in zip(arms, measured, strict=True)}
        for each, arm in arms:
            against = {
                name: compare(seconds[each.name], other, noise=noise)
                for name, other in seconds.items() if name != each.name
            }  # fmt: skip
            line = {
                **_bare(each, phase), "how": arm.arm.how, "calls": arm.arm.calls, "sets": len(sets),
                "rounds": self._repeats, "noise": noise, **self._figures(case, sets[0], phase, seconds[each.name]),
                "against": {name: (pair.ratio, pair.low, pair.high, pair.verdict) for name, pair in against.items()},
            }  # fmt: skip
            lines.append(self._believed(line, each, arm, judge))
            if lines[-1].get("is_fatal"):
                break
        return lines

    def _figures(self, case: Case, inputs: Inputs, phase: str, seconds: Sequence[float]) -> dict[str, Any]:
        """Returns the times of an arm, and what it did in them beside what it had to."""
        middle, low, high = interval(seconds)
        least = cost(case, inputs, phase)
        floor = floor_us(least, self._ceilings)
        return {
            "median_us": middle * 1e6, "low_us": low * 1e6, "high_us": high * 1e6, "bytes": least.bytes,
            "flops": least.flops, "floor_us": floor, "share": None if floor is None else floor / (middle * 1e6),
        }  # fmt: skip

    def _believed(self, line: dict[str, Any], each: Contender, arm: SetArm, judge: PartJudge) -> dict[str, Any]:
        """Returns the line with what speaks against it: a share above the ceiling, or what the timed arm computed."""
        share = line["share"]
        if share is not None and share > SLACK:
            problem = f"is at {share} of its floor: the floor or the measurement is wrong"
            return {**line, "problem": problem, "timed_verdict": ""}
        try:
            verdict, reason = arm.judged(judge, each.recipe)
        except Exception as error:
            return {**_bare(each, line["phase"]), "problem": _sentence(error), "is_fatal": self._is_lost()}
        if verdict is not Verdict.PASS and each.is_ours:
            # A kernel that is right when it is called and wrong when it is timed has no speed.
            problem = f"what was timed: {reason}"
            return {**_bare(each, line["phase"]), "verdict": verdict.value, "problem": problem}
        return {**line, "timed_verdict": _named(verdict, each)}


def _named(verdict: Verdict, each: Contender) -> str:
    """Returns the verdict; beyond a recipe that is not its own, a peer has not failed."""
    return BEYOND if verdict is Verdict.FAIL_NUMERIC and not each.states_recipe else verdict.value


def _bare(each: Contender, phase: str) -> dict[str, Any]:
    return {"arm": each.name, "is_ours": each.is_ours, "phase": phase, "problem": ""}


def _sentence(error: Exception) -> str:
    """Returns the first line of what was raised; all of it goes to the log."""
    sys.stderr.write("".join(traceback.format_exception(error)))
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]


def case_data(case: Case) -> Mapping[str, Any]:
    """Returns a case as it reads in a line of JSON."""
    found: dict[str, Any] = json.loads(json.dumps(case.to_data()))
    return found
