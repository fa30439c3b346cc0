"""How time and memory grow with the length: of the references, and of an error budget.

``python -m tests.benchmarks.scaling`` prints

- what a token costs the float64 recurrent reference of the gated delta rule, forward and backward, up to 4,096 tokens;
- what a pair of query and key costs the error budget of attention, for more queries and for more keys;
- with ``--memory``, the largest memory of a process that does nothing but attention at 32,768 tokens in float64,
  forward, and forward and backward.

Costs are processor time, the least of a few calls: how busy the machine is hardly enters it. Returns 1 when a token or
pair costs half as much again as at the smallest size, or the memory is above 2 GB.
"""

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence

import torch

from harness.budget import measure_budgets
from harness.cases import case_from_data
from harness.ops import operation
from harness.truth import truth
from optimized.candidate import Recipe
from reference import attention
from tests.benchmarks.reference_speed import processor_seconds, reference, timed_call

__all__ = ["LENGTHS", "LIMIT_GB", "LONG", "PAIRS", "main", "peak_gb"]

LENGTHS = (512, 1024, 2048, 4096)
PAIRS = ((128, 128), (512, 128), (128, 512), (512, 512))
"""Queries and keys."""

LINEAR = 1.5
"""Times the cost of a token or pair at the smallest size that it may be at any other."""

LONG, LIMIT_GB = 32768, 2.0


def budget_call(queries: int, keys: int) -> Callable[[], object]:
    """Returns a call that measures the budgets of attention, forward and backward."""
    case = case_from_data({
        "op": "attention", "dtype": "bfloat16", "batch": 1, "query_tokens": queries, "key_tokens": keys, "key_heads": 1,
        "group": 1, "head_dim": 64, "value_dim": 64,
    })  # fmt: skip
    row = operation(case.op)
    inputs = row.inputs(case)
    recipe = Recipe(storage="bfloat16", operand="bfloat16", accumulator="float32")
    expected = truth(row, inputs, [output.name for output in row.outputs], with_gradients=True)
    return lambda: measure_budgets(row, case, inputs, recipe, expected)


def peak_gb(*, tokens: int, backward: bool) -> float:
    """Returns the largest memory of a fresh process that makes attention of so many tokens, in 1e9 bytes."""
    words = [sys.executable, "-m", "tests.benchmarks.scaling", "--alone", str(tokens)]
    words += ["--backward"] if backward else []
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the costs and returns 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="calls of which the least counts (default 3)")
    parser.add_argument("--memory", action="store_true", help=f"memory at {LONG:,} tokens instead: minutes")
    parser.add_argument("--alone", type=int, metavar="TOKENS", help=argparse.SUPPRESS)
    parser.add_argument("--backward", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.alone:
        return _alone(options.alone, backward=options.backward)
    if options.memory:
        return _memory()
    tokens = {
        f"{tokens} tokens": processor_seconds(
            timed_call(reference, torch.float64, tokens, backward=True), repeats=options.repeats
        ) / tokens
        for tokens in LENGTHS
    }  # fmt: skip
    pairs = {
        f"{queries} x {keys}": processor_seconds(budget_call(queries, keys), repeats=options.repeats) / (queries * keys)
        for queries, keys in PAIRS
    }
    is_linear = _told("recurrent reference, float64, forward + backward, of a token", tokens)
    return int(not (_told("budget of attention, of a pair of query and key", pairs) and is_linear))


def _told(what: str, costs: dict[str, float]) -> bool:
    """Prints costs; returns whether they are linear."""
    first, *others = costs.values()
    growth = max(others) / first
    sys.stdout.write(f"{what}: at most {growth:.2f} times that of the smallest size (limit {LINEAR:g})\n")
    for name, seconds in costs.items():
        sys.stdout.write(f"  {name:14} {1e6 * seconds:10.3f} us of processor time\n")
    return growth <= LINEAR


def _memory() -> int:
    worst = 0.0
    for backward in (False, True):
        found = peak_gb(tokens=LONG, backward=backward)
        worst = max(worst, found)
        phase = "forward + backward" if backward else "forward"
        sys.stdout.write(
            f"attention, float64, 1 head of 64, {LONG:,} tokens, {phase}: {found:.2f} GB (limit {LIMIT_GB:g})\n"
        )
        sys.stdout.flush()
    return int(worst > LIMIT_GB)


def _alone(tokens: int, *, backward: bool) -> int:
    """Makes attention of so many tokens and prints the largest memory of this process, imports and all."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, tokens, 1, 64, generator=generator, dtype=torch.float64).requires_grad_(backward)
        for _ in range(3)
    )
    out, lse = attention(query, key, value, scale=0.125, window=(None, 0))
    if backward:
        torch.autograd.grad(out.sum() + lse.sum(), (query, key, value))
    sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
