"""What an error budget costs, in units of the plain float64 reference at the same case on one thread.

``python -m tests.benchmarks.budget_cost`` prints a row per operation. Both arms make the forward values and every
gradient; the budget runs eight random executions and its two round-to-nearest ones. Rounds are paired and reversed
(``harness.timing``), so that a shared machine slows both arms alike; the ratio is the median over the rounds.
"""

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from harness.bench.stopwatch import prepared, time_rounds
from harness.budget import measure_budgets
from harness.cases import case_from_data
from harness.operations.case import Case
from harness.ops import operation
from harness.timing import compare, interval, noise_of
from harness.truth import truth
from optimized.candidate import Recipe

__all__ = ["CASES", "LIMIT", "SAMPLES", "Cost", "cost_of", "main"]

LIMIT = 30.0
"""Times the reference that a budget may cost."""

SAMPLES = 8
"""Random executions of the measured budget."""

CASES: Mapping[str, Case] = {
    "attention 2x4x96x64": case_from_data({
        "op": "attention", "dtype": "bfloat16", "batch": 2, "query_tokens": 96, "key_tokens": 96, "key_heads": 4,
        "group": 1, "head_dim": 64, "value_dim": 64, "window_right": 0,
    }),
    "gated_delta_rule 1x2x256x64": case_from_data({
        "op": "gated_delta_rule", "dtype": "bfloat16", "batch": 1, "tokens": 256, "key_heads": 2, "group": 1,
        "key_dim": 64, "value_dim": 64,
    }),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Time of a budget beside that of the reference; the ratio with its order-statistic interval."""

    budget_ms: float
    reference_ms: float
    ratio: float
    low: float
    high: float


def cost_of(case: Case, *, repeats: int, samples: int = SAMPLES) -> Cost:
    """Returns what a budget of so many executions costs at a case.

    Args:
        case: the case.
        repeats: paired rounds.
        samples: random executions.
    """
    row = operation(case.op)
    # The derivatives along directions serve the judge; the plain reference is one forward and one backward pass.
    plain = dataclasses.replace(row, directions=())
    inputs = row.inputs(case)
    names = [output.name for output in row.outputs]
    recipe = Recipe(storage=case.dtype, operand=case.dtype, accumulator="float32")
    expected = truth(plain, inputs, names, with_gradients=True)

    def reference() -> object:
        return truth(plain, inputs, names, with_gradients=True)

    def budget() -> object:
        return measure_budgets(row, case, inputs, recipe, expected, samples=samples)

    arms = [prepared([each], "cpu", graphs=False) for each in (reference, budget)]
    reference_s, budget_s, again = time_rounds(arms, rounds=repeats)
    pair = compare(budget_s, reference_s, noise=noise_of(reference_s, again))
    budget_ms, reference_ms = (1e3 * interval(arm)[0] for arm in (budget_s, reference_s))
    return Cost(budget_ms=budget_ms, reference_ms=reference_ms, ratio=pair.ratio, low=pair.low, high=pair.high)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns 1 when a ratio is above the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="paired rounds (default 15)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    sys.stdout.write(
        f"{'case':30} {'samples':>7} {'budget ms':>10} {'reference ms':>13} {'ratio':>6}  interval (limit {LIMIT:g})\n"
    )
    worst = 0.0
    for name, case in CASES.items():
        # The limit is for eight samples; what the operation really takes stands beside it.
        for samples in dict.fromkeys((SAMPLES, operation(case.op).samples)):
            cost = cost_of(case, repeats=options.repeats, samples=samples)
            worst = max(worst, cost.ratio) if samples == SAMPLES else worst
            figures = f"{samples:7} {cost.budget_ms:10.1f} {cost.reference_ms:13.1f} {cost.ratio:6.1f}"
            sys.stdout.write(f"{name:30} {figures}  {cost.low:.1f} to {cost.high:.1f}\n")
    return int(worst > LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())
