"""Times an operation at its standard shapes, ours beside others', forward, backward and both.

``python -m harness.gpu.benchmark --op attention --device cuda --out DIR`` appends a line of JSON per shape, arm and
phase to ``benchmark.jsonl`` and goes on where an earlier call ended. What is timed is verified first, on a part of the
same call; ours gets no time without a PASS, of others the verdict stands beside the time.
"""

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.candidates import find_candidates
from harness.environment import snapshot
from harness.gpu.costs import PHASES, Ceilings, cost, floor_us
from harness.gpu.machine import measure_ceilings
from harness.gpu.peers import PEERS
from harness.gpu.shapes import TIMED, standard_cases
from harness.gpu.stopwatch import Arm, prepared, time_rounds
from harness.gpu.timed_inputs import timed_inputs
from harness.gpu.verified import PartJudge
from harness.operations.base import Inputs, Operation
from harness.operations.case import Case
from harness.ops import operation
from harness.records import Verdict
from harness.timing import compare, interval
from optimized.candidate import Candidate, Recipe

__all__ = ["LINES", "Contender", "contenders", "main"]

LINES = "benchmark.jsonl"

_WHOLE_SCORES = ("attention", "gated_delta_rule")
"""Operations whose textbook form stores what the fused ones avoid, or walks token by token: not timed."""


_SLACK = 1.05
"""A share of the floor above this is no speed but an error of the benchmark; the ceilings vary by a few percent."""


@dataclass(frozen=True, slots=True)
class Contender:
    """Who is timed.

    Attributes:
        name: shown in the rows; of ours it is the candidate's.
        load: returns the callable, of the operation's call.
        recipe: by which it is judged.
        is_ours: whether it must pass before it is timed.
    """

    name: str
    load: Callable[[], Callable[..., Any]]
    recipe: Recipe
    is_ours: bool = False


def contenders(op: str, dtype: str, device: str) -> list[Contender]:
    """Returns ours, the compiled textbook and the peers of an operation; kernels of a GPU only where there is one."""
    ours = [
        item for item in find_candidates().candidates.values()
        if item.op == op and item.recipe.storage == dtype and device in item.devices and item.differentiable
    ]  # fmt: skip
    fused = [item for item in ours if item.name.startswith(("triton-", "flash4-")) and device == "cuda"]
    plain = [item for item in ours if item.name.startswith("torch-") and (op not in _WHOLE_SCORES or device == "cpu")]
    found = [Contender(item.name, load=item.load, recipe=item.recipe, is_ours=True) for item in (*fused, *plain)]
    if device == "cuda":
        found += [Contender(f"compiled-{item.name}", load=_compiled(item), recipe=item.recipe) for item in plain]
    recipe = (fused or ours)[0].recipe
    return [*found, *(Contender(name, load=make, recipe=recipe) for name, make in PEERS.get(op, {}).items())]


def _compiled(candidate: Candidate) -> Callable[[], Callable[..., Any]]:
    def load() -> Callable[..., Any]:
        made: Callable[..., Any] = torch.compile(candidate.load())
        return made

    return load


def main(arguments: Sequence[str] | None = None) -> int:
    """Times the shapes that have no line yet; returns 1 if one of ours failed its verification or raised."""
    options = _parser().parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / LINES
    done = _read(path)
    is_cpu = options.device == "cpu"
    bench = _Bench(operation(options.op), options.device, options.dtype, 3 if options.rehearse else options.repeats,
                   graphs=not options.no_graphs)  # fmt: skip
    with path.open("a", encoding="utf-8") as lines:
        for case in standard_cases(options.op, dtype=options.dtype, is_rehearsal=options.rehearse or is_cpu):
            if any(each["case"] == _data(case) and each["complete"] for each in done):
                continue
            for line in bench.lines(case):
                lines.write(json.dumps(line) + "\n")
                lines.flush()
                sys.stdout.write(_row(line) + "\n")
                sys.stdout.flush()
    return int(any(line["is_ours"] and line["problem"] for line in _read(path)))


class _Bench:
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

    def lines(self, case: Case) -> list[dict[str, Any]]:
        """Returns a line per contender and phase; the last is marked ``complete``."""
        inputs = timed_inputs(case, self._device, 1)
        judge = PartJudge(self._row, case, inputs)
        sound: list[Contender] = []
        found: list[dict[str, Any]] = []
        base = {
            "case": _data(case), "ceilings": {"copy_gb_s": self._ceilings.copy_gb_s,
            "matmul_tflop_s": self._ceilings.matmul_tflop_s}, "environment": snapshot(self._device, 1),
            "complete": False,
        }  # fmt: skip
        verdicts = {}
        for each in self._contenders:
            verdict, problem = self._verified(each, judge)
            verdicts[each.name] = verdict
            if verdict == Verdict.PASS.value or (verdict.startswith("FAIL") and not each.is_ours):
                sound.append(each)
            if problem:
                found.append({**base, "arm": each.name, "is_ours": each.is_ours, "phase": "", "verdict": verdict,
                              "problem": problem})  # fmt: skip
        del judge
        sets = self._input_sets(case, inputs)
        for phase in PHASES:
            lines = self._phase(case, sets, sound, phase)
            found += [{**base, **line, "verdict": verdicts[line["arm"]]} for line in lines]
        found.append({**base, "complete": True, "arm": "", "is_ours": False, "phase": "", "verdict": "", "problem": ""})
        return found

    def _function(self, each: Contender) -> Callable[..., Any]:
        if each.name not in self._functions:
            self._functions[each.name] = each.load()
        return self._functions[each.name]

    def _verified(self, each: Contender, judge: PartJudge) -> tuple[str, str]:
        """Returns the verdict on a contender and, unless it passed, a sentence."""
        try:
            verdict, reason = judge.judged(self._function(each), each.recipe)
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
                lines.append({"arm": each.name, "is_ours": each.is_ours, "phase": phase, "problem": problem})
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
    leaves = {name: item.detach().requires_grad_(name in names) for name, item in inputs.tensors.items()}
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


def _data(case: Case) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(case.to_data()))
    return found


def _row(line: Mapping[str, Any]) -> str:
    if line["problem"]:
        return f"{line['arm']:28} {line['phase']:17} {line['verdict']}: {line['problem'][:150]}"
    if not line["arm"]:
        return json.dumps(line["case"])
    share = "" if line["share"] is None else f"{100 * line['share']:6.1f} % of the floor"
    return f"{line['arm']:28} {line['phase']:17} {line['median_us']:12.1f} us {line['how']:7}{share}  {line['verdict']}"


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.gpu.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--op", required=True, choices=tuple(TIMED))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--repeats", type=int, default=15, help="interleaved rounds (default 15)")
    parser.add_argument("--no-graphs", action="store_true", help="time on the stream, without CUDA graphs")
    parser.add_argument("--rehearse", action="store_true", help="small shapes and three rounds")
    parser.add_argument("--out", type=Path, required=True)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
