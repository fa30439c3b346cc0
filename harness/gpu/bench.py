"""Verifies and times the contenders of one shape after the other, in interleaved rounds."""

import json
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch

from harness.environment import snapshot
from harness.gpu.contenders import Contender, contenders
from harness.gpu.costs import PHASES, Ceilings, cost, floor_us
from harness.gpu.machine import measure_ceilings
from harness.gpu.stopwatch import Arm, prepared, time_rounds
from harness.gpu.timed_inputs import timed_inputs
from harness.gpu.verified import PartJudge
from harness.operations.base import Inputs, Operation
from harness.operations.case import Case
from harness.records import Verdict
from harness.timing import compare, interval

__all__ = ["Bench", "case_data"]

_SLACK = 1.05
"""A share of the floor above this is no speed but an error of the benchmark; the ceilings vary by a few percent."""


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
            "case": case_data(case), "ceilings": {"copy_gb_s": self._ceilings.copy_gb_s,
            "matmul_tflop_s": self._ceilings.matmul_tflop_s}, "environment": snapshot(self._device, 1),
            "complete": False, "is_fatal": False,
        }  # fmt: skip
        verdicts = {}
        for each in self._contenders:
            if each.name in without:
                continue
            verdict, problem = self._verified(each, judge)
            is_lost = self._is_lost()
            if verdict == Verdict.ERROR.value and not each.is_ours and not is_lost:
                # What refuses to go backward here may still have a forward to compare with.
                verdict, again = self._verified(each, judge, with_gradients=False)
                problem, is_lost = f"{problem}; forward alone: {verdict} {again}".strip(), self._is_lost()
                forward_only.add(each.name)
            verdicts[each.name] = verdict
            if verdict == Verdict.PASS.value or (verdict.startswith("FAIL") and not each.is_ours):
                sound.append(each)
            if problem:
                yield {
                    **base, "arm": each.name, "is_ours": each.is_ours, "phase": "", "verdict": verdict,
                    "problem": problem, "is_fatal": is_lost,
                }  # fmt: skip
        del judge
        sets = self._input_sets(case, inputs)
        for phase in PHASES:
            able = [each for each in sound if phase == "forward" or each.name not in forward_only]
            for line in self._phase(case, sets, able, phase):
                yield {**base, **line, "verdict": verdicts[line["arm"]]}
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

    def _verified(self, each: Contender, judge: PartJudge, *, with_gradients: bool = True) -> tuple[str, str]:
        """Returns the verdict on a contender and, unless it passed, a sentence."""
        try:
            verdict, reason = judge.judged(self._function(each), each.recipe, with_gradients=with_gradients)
        except Exception as error:
            sys.stderr.write(traceback.format_exc())
            return Verdict.ERROR.value, f"{type(error).__name__}: {error}".strip().splitlines()[0]
        return verdict.value, reason

    def _input_sets(self, case: Case, inputs: Inputs) -> list[Inputs]:
        """Returns so many sets of inputs that none of them is in the cache when its turn comes."""
        if self._device != "cuda":
            return [inputs]
        cache = 4 * int(torch.cuda.get_device_properties(0).L2_cache_size)
        size = sum(item.numel() * item.element_size() for item in inputs.tensors.values())
        count = min(8, max(2, -(-cache // size)))
        return [inputs, *(timed_inputs(case, self._device, seed) for seed in range(2, count + 1))]

    def _phase(
        self, case: Case, sets: Sequence[Inputs], sound: Sequence[Contender], phase: str
    ) -> list[dict[str, Any]]:
        """Returns a line per contender: its times, and its pairs with all others."""
        lines: list[dict[str, Any]] = []
        arms: list[tuple[Contender, Arm]] = []
        for each in sound:
            try:
                calls = [_call(self._row, inputs, self._function(each), phase) for inputs in sets]
                arms.append((each, prepared(calls, self._device, graphs=self._graphs)))
            except Exception as error:
                sys.stderr.write(traceback.format_exc())
                problem = f"{type(error).__name__}: {error}".strip().splitlines()[0]
                lines.append({
                    "arm": each.name, "is_ours": each.is_ours, "phase": phase, "problem": problem,
                    "is_fatal": self._is_lost(),
                })  # fmt: skip
                if lines[-1]["is_fatal"]:
                    return lines
        if not arms:
            return lines
        # The first arm runs twice: what its two rows differ by is what the measurement cannot tell apart.
        measured = time_rounds([arm for _, arm in arms] + [arms[0][1]], self._device, repeats=self._repeats)
        seconds = {each.name: values for (each, _), values in zip(arms, measured, strict=False)}
        again = measured[-1]
        floor = floor_us(case, sets[0], phase, self._ceilings)
        count, flops = cost(case, sets[0], phase)
        for each, arm in arms:
            middle, low, high = interval(seconds[each.name])
            share = None if floor is None else floor / (middle * 1e6)
            beyond = f"is at {share} of its floor: the floor or the measurement is wrong"
            lines.append({
                "arm": each.name, "is_ours": each.is_ours, "phase": phase,
                "problem": beyond if share is not None and share > _SLACK else "", "how": arm.how,
                "calls": arm.calls, "median_us": middle * 1e6, "low_us": low * 1e6, "high_us": high * 1e6,
                "rounds": self._repeats, "bytes": count, "flops": flops, "floor_us": floor,
                "share": share,
                "against": {name: compare(seconds[each.name], other) for name, other in seconds.items()
                            if name != each.name},
                "itself": compare(again, seconds[each.name]) if each is arms[0][0] else None,
            })  # fmt: skip
        return lines


def _call(row: Operation, inputs: Inputs, function: Callable[..., Any], phase: str) -> Callable[[], object]:
    """Returns what is timed; nothing is built inside."""
    names = row.differentiable(inputs.tensors) if phase != "forward" else ()
    # Copies, because some peers write their gradients over what they read.
    leaves = {name: item.detach().clone().requires_grad_(name in names) for name, item in inputs.tensors.items()}
    args, kwargs = row.arrange(leaves, inputs.options)
    wanted, cotangent = [leaves[name] for name in names], inputs.cotangents["out"]

    def forward() -> torch.Tensor:
        return row.named(function(*args, **kwargs))["out"]

    def both() -> object:
        return torch.autograd.grad([forward()], wanted, [cotangent], allow_unused=True)

    if phase == "forward":
        return forward
    if phase == "forward+backward":
        return both
    out = forward()
    return lambda: torch.autograd.grad([out], wanted, [cotangent], allow_unused=True, retain_graph=True)


def case_data(case: Case) -> dict[str, Any]:
    """Returns a case as it reads in a line of JSON."""
    found: dict[str, Any] = json.loads(json.dumps(case.to_data()))
    return found
