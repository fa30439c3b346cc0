"""Judges a part of a large call by the budget of that part: rows of one head, outputs and gradients.

The reference of a whole standard shape would take hours. Rows are independent given what they see, and cotangents that
are zero outside of the part make the gradients of the whole call those of the part.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from harness.bench.inputs import Part, part_of, sparse_cotangent
from harness.budget import Budget, measure_budgets
from harness.judge import judge, judge_missing
from harness.operations.base import Inputs, Operation
from harness.operations.case import Case
from harness.records import Judgement, Verdict
from harness.truth import GRAD, truth
from harness.verify import MORE, overall
from optimized.candidate import Recipe

__all__ = ["PartJudge", "pulled"]


def pulled(
    row: Operation, inputs: Inputs, function: Callable[..., Any], cotangent: Tensor | None
) -> dict[str, Tensor | None]:
    """Returns ``out`` and, from a cotangent, the gradients of every differentiable input, named as for the judge."""
    names = row.differentiable(inputs.tensors) if cotangent is not None else ()
    leaves = {name: item.detach().clone().requires_grad_(name in names) for name, item in inputs.tensors.items()}
    args, kwargs = row.arrange(leaves, inputs.options)
    out = row.named(function(*args, **kwargs))["out"]
    if cotangent is None:
        return {"out": out.detach()}
    grads = torch.autograd.grad([out], [leaves[name] for name in names], [cotangent], allow_unused=True)
    return {"out": out.detach(), **{GRAD + name: grad for name, grad in zip(names, grads, strict=True)}}


class PartJudge:
    """The judge of one standard shape; truth and budgets are computed once for all who are judged.

    Args:
        row: the operation.
        case: the standard shape.
        inputs: on the device, with a cotangent of ``out`` that is not zero everywhere.
    """

    def __init__(self, row: Operation, case: Case, inputs: Inputs) -> None:
        self._row, self._case, self._inputs = row, case, inputs
        self._part: Part = part_of(case)
        self.cotangent = sparse_cotangent(inputs.cotangents["out"], self._part)
        self._small = Inputs(
            tensors={name: self._taken(name, item) for name, item in inputs.tensors.items()},
            options=inputs.options,
            cotangents={"out": self._taken("out", inputs.cotangents["out"])},
        )
        self._truth = truth(row, self._small, ("out",), with_gradients=True)
        self._budgets: dict[tuple[Recipe, int], Mapping[str, Budget]] = {}

    def judged(
        self, function: Callable[..., Any], recipe: Recipe, *, with_gradients: bool = True
    ) -> tuple[Verdict, str]:
        """Returns the verdict on the part of a call, and its reason; ``out`` alone where gradients are not wanted."""
        return self.judged_values(self.found(function, with_gradients=with_gradients), recipe)

    def found(self, function: Callable[..., Any], *, with_gradients: bool = True) -> dict[str, Tensor | None]:
        """Returns what a call gives for the judge's inputs and cotangent."""
        return pulled(self._row, self._inputs, function, self.cotangent if with_gradients else None)

    def judged_values(self, found: Mapping[str, Tensor | None], recipe: Recipe) -> tuple[Verdict, str]:
        """Returns the verdict on what a call returned for these inputs, gradients from the judge's cotangent."""
        values = {
            name: None if item is None else self._taken(name.removeprefix(GRAD), item)
            for name, item in found.items() if name == "out" or name.startswith(GRAD)
        }  # fmt: skip
        verdict, reason = Verdict.PASS, ""
        for factor in (1, MORE):
            verdict, reason = overall(self._judgements(values, recipe, factor))
            if verdict is Verdict.PASS:
                break
        return verdict, reason

    def errors(self, found: Mapping[str, Tensor | None]) -> dict[str, float]:
        """Returns, by output and gradient, the root of the mean square error over that of the expected values."""
        errors = {}
        for name, expected in self._truth.expected.items():
            value = found.get(name)
            if value is not None:
                off = self._taken(name.removeprefix(GRAD), value).to(torch.float64) - expected
                errors[name] = float((off.square().sum() / expected.square().sum()).sqrt())
        return errors

    def _judgements(self, values: Mapping[str, Tensor | None], recipe: Recipe, factor: int) -> list[Judgement]:
        if (recipe, factor) not in self._budgets:
            samples = factor * self._row.samples
            self._budgets[recipe, factor] = measure_budgets(
                self._row, self._case, self._small, recipe, self._truth, samples=samples
            )
        judgements = []
        for name, budget in self._budgets[recipe, factor].items():
            if name not in values:
                continue
            actual = values[name]
            tangents = {direction: each[name] for direction, each in self._truth.tangents.items()}
            judgements.append(
                judge_missing(name, budget)
                if actual is None
                else judge(self._row, name, actual, budget, tangents, self._case.dtype)
            )
        return judgements

    def _taken(self, name: str, value: Tensor) -> Tensor:
        return value.detach()[self._part[name]].cpu().contiguous() if name in self._part else value.detach().cpu()
