"""An example to judge: expected values, budgets and what a healthy kernel returns."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from harness.budget import Budget, measure_budgets
from harness.cases import case_from_data
from harness.judge import judge, stored_dtype
from harness.operations.base import Operation
from harness.operations.case import Case
from harness.ops import operation
from harness.records import Judgement
from harness.truth import Truth, truth
from optimized.candidate import Recipe

__all__ = ["ATTENTION", "NORM", "RULE", "Example", "example"]

ATTENTION: dict[str, Any] = {
    "op": "attention", "batch": 2, "query_tokens": 33, "key_tokens": 40, "key_heads": 2, "group": 2, "head_dim": 16,
    "value_dim": 24, "window_right": 0, "sinks": True, "key_mask": True, "seed": 3,
}  # fmt: skip
NORM: dict[str, Any] = {"op": "rms_norm", "batch": 2, "tokens": 9, "channels": 40, "seed": 5}
RULE: dict[str, Any] = {
    "op": "gated_delta_rule", "batch": 1, "tokens": 20, "key_heads": 2, "group": 1, "key_dim": 8, "value_dim": 8,
    "initial_state": True, "seed": 7,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A case with its truth and its budgets."""

    row: Operation
    case: Case
    recipe: Recipe
    expected: Truth
    budgets: Mapping[str, Budget]

    def healthy(self) -> dict[str, Tensor]:
        """Returns what a round-to-nearest execution of the recipe stores."""
        return {
            name: (budget.expected + budget.nearest[0]).to(stored_dtype(self.row, name, self.case.dtype))
            for name, budget in self.budgets.items()
        }

    def judge(self, name: str, value: Tensor) -> Judgement:
        """Returns the judgement of a value in place of the named output or gradient."""
        tangents = {direction: values[name] for direction, values in self.expected.tangents.items()}
        return judge(self.row, name, value, self.budgets[name], tangents, self.case.dtype)


def example(data: Mapping[str, Any], dtype: str) -> Example:
    """Returns the example of a case's data in a storage dtype, with a tensor-core recipe; made once."""
    return _example(case_from_data({**data, "dtype": dtype}))


@functools.cache
def _example(case: Case) -> Example:
    row = operation(case.op)
    inputs = row.inputs(case)
    recipe = Recipe(storage=case.dtype, operand=case.dtype, accumulator="float32")
    expected = truth(row, inputs, [output.name for output in row.outputs], with_gradients=True)
    return Example(
        row=row, case=case, recipe=recipe, expected=expected,
        budgets=measure_budgets(row, case, inputs, recipe, expected),
    )  # fmt: skip
