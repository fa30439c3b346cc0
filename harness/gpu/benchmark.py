"""Times an operation at its standard shapes, ours beside others', forward, backward and both.

``python -m harness.gpu.benchmark --op attention --device cuda --out DIR`` appends a line of JSON per shape, arm and
phase to ``benchmark.jsonl`` and goes on where an earlier call ended. What is timed is verified first, on a part of the
same call; ours gets no time without a PASS, of others the verdict stands beside the time.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from harness.bench.shapes import TIMED, standard_cases
from harness.bench.standard import Bench, case_data
from harness.bench.stopwatch import own_stream
from harness.ops import operation

__all__ = ["LINES", "main"]

LINES = "benchmark.jsonl"


def main(arguments: Sequence[str] | None = None) -> int:
    """Times the shapes that have no line yet; returns 1 if one of ours failed its verification or raised."""
    options = _parser().parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / LINES
    done = _read(path)
    is_cpu = options.device == "cpu"
    own_stream(options.device)
    if options.device == "cuda":
        torch.set_num_threads(min(8, os.cpu_count() or 1))  # the truth is computed on the CPU, while nothing is timed
    bench = Bench(operation(options.op), options.device, options.dtype, 3 if options.rehearse else options.repeats,
                   graphs=not options.no_graphs)  # fmt: skip
    with path.open("a", encoding="utf-8") as lines:
        for case in standard_cases(options.op, dtype=options.dtype, is_rehearsal=options.rehearse or is_cpu):
            if any(each["case"] == case_data(case) and each["complete"] for each in done):
                continue
            dead = {each["arm"] for each in done if each["case"] == case_data(case) and each.get("is_fatal")}
            for line in bench.lines(case, without=dead):
                lines.write(json.dumps(line) + "\n")
                lines.flush()
                sys.stdout.write(_row(line) + "\n")
                sys.stdout.flush()
                if line.get("is_fatal"):
                    # The device is lost to this process: a new one goes on, without this arm.
                    words = sys.argv[1:] if arguments is None else list(arguments)
                    os.execv(sys.executable, [sys.executable, "-m", "harness.gpu.benchmark", *words])
    return int(any(line["is_ours"] and line["problem"] for line in _read(path)))


def _row(line: Mapping[str, Any]) -> str:
    if line["problem"]:
        return f"{line['arm']:28} {line['phase']:17} {line['verdict']}: {line['problem'][:150]}"
    if not line["arm"]:
        return json.dumps(line["case"])
    if "median_us" not in line:
        return f"{line['arm']:28} {'verification':17} {line['verdict']}"
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
