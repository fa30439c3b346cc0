"""How far an execution of an operation stands from the reference, in units of its recipe's tolerance."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from harness.budget import Budget, emulated, measure_budgets
from harness.emulators.arithmetic import Arithmetic
from harness.emulators.rounding import Fault, Nearest
from harness.operations.base import Inputs, Operation
from harness.operations.case import Case
from harness.ops import OPS
from harness.strategies import draw_cases
from harness.truth import GRAD, Truth, truth
from optimized.candidate import Candidate, Recipe
from optimized.catalogue import CANDIDATES

__all__ = ["EXACT", "plain_candidates", "worst_of_candidate", "worst_of_fault"]

EXACT = Recipe(storage="float64", operand="float64", accumulator="float64")


def plain_candidates(ops: Sequence[str]) -> list[Candidate]:
    """Returns the candidates of these operations that are written in plain torch."""
    return [item for item in CANDIDATES if item.op in ops and item.name.startswith(("torch-", "eager-"))]


def worst_of_candidate(candidate: Candidate, *, count: int) -> float:
    """Returns the largest |error| / tolerance of a candidate over some drawn cases."""
    call = candidate.load()
    largest = 0.0
    for row, case, inputs, expected in _drawn(candidate.op, candidate.recipe.storage, count, candidate.differentiable):
        budgets = measure_budgets(row, case, inputs, candidate.recipe, expected)
        largest = max(largest, _worst(budgets, _executed(row, call, inputs, with_gradients=candidate.differentiable)))
    return largest


def worst_of_fault(op: str, recipe: Recipe, point: str, change: Callable[[Tensor], Tensor], *, count: int) -> float:
    """Returns the largest |error| / tolerance of a round-to-nearest kernel with one wrong line."""
    largest = 0.0
    for row, case, inputs, expected in _drawn(op, recipe.storage, count, with_gradients=True):
        budgets = measure_budgets(row, case, inputs, recipe, expected)
        arithmetic = Arithmetic(recipe, Fault(Nearest(), {point: change}), tile=row.tiles[-1])
        values = emulated(row, inputs, arithmetic, list(expected.expected))
        largest = max(largest, _worst(budgets, {name: value[0] for name, value in values.items()}))
    return largest


def _drawn(
    op: str,
    storage: str,
    count: int,
    with_gradients: bool,  # noqa: FBT001 - the last of four, never a literal
) -> Iterator[tuple[Operation, Case, Inputs, Truth]]:
    row = OPS[op]
    for case in draw_cases(row, count, seed_value=11, dtypes=[storage], largest=20):
        inputs = row.inputs(case)
        names = [output.name for output in row.outputs]
        yield row, case, inputs, truth(row, inputs, names, with_gradients=with_gradients)


def _executed(
    row: Operation, call: Callable[..., object], inputs: Inputs, *, with_gradients: bool
) -> dict[str, Tensor]:
    wanted = row.differentiable(inputs.tensors) if with_gradients else ()
    leaves = {
        name: item.clone().requires_grad_(name in wanted) if item.is_floating_point() else item
        for name, item in inputs.tensors.items()
    }
    args, kwargs = row.arrange(leaves, inputs.options)
    outputs = row.named(call(*args, **kwargs))
    values = {name: value.detach() for name, value in outputs.items()}
    pulled = [name for name, value in outputs.items() if value.requires_grad]
    if wanted:
        grads = torch.autograd.grad(
            [outputs[name] for name in pulled],
            [leaves[name] for name in wanted],
            [inputs.cotangents[name] for name in pulled],
        )
        values |= {GRAD + name: grad for name, grad in zip(wanted, grads, strict=True)}
    return values


def _worst(budgets: Mapping[str, Budget], values: Mapping[str, Tensor]) -> float:
    """Returns the largest ratio where neither the result nor a round-to-nearest kernel leaves the format's range."""
    largest = 0.0
    for name, budget in budgets.items():
        in_range = budget.expected.isfinite() & budget.nearest.isfinite().all(0)
        error = (values[name].to(torch.float64) - budget.expected).abs()
        ratios = torch.where(in_range, error / budget.tolerance, 0.0)
        largest = max(largest, float(ratios.nan_to_num(nan=torch.inf).amax()) if ratios.numel() else 0.0)
    return largest
