"""Judges what a candidate returned against its budget: element, aggregate and exact checks, one Judgement a tensor."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from harness.budget import Budget
from harness.metrics import project, rms
from harness.operations.base import Operation, output_dtype, storage_dtype
from harness.records import Aggregate, Judgement, Verdict
from harness.slices import slice_gains
from harness.spread import lean, spread
from harness.truth import GRAD

__all__ = ["AMBIGUOUS_RATIO", "judge", "judge_missing", "stored_dtype"]

AMBIGUOUS_RATIO = 1.25
"""Up to this multiple of a limit the case is judged again with fresh seeds instead of failed."""

_LARGEST = {"float16": 65504.0, "bfloat16": 3.3895313892515355e38, "float32": 3.4028234663852886e38}


def stored_dtype(row: Operation, name: str, storage: str) -> torch.dtype:
    """Returns the dtype in which an output or gradient must be returned."""
    for output in row.outputs:
        if output.name == name:
            return output_dtype(output, storage)
    return storage_dtype(storage)


def judge(
    row: Operation,
    name: str,
    actual: Tensor,
    budget: Budget,
    tangents: Mapping[str, Tensor],
    storage: str,
) -> Judgement:  # fmt: skip
    """Returns the judgement of one output or gradient.

    Args:
        row: the operation.
        name: ``"out"`` or ``"grad:query"``.
        actual: what the candidate returned, on the CPU.
        budget: of this tensor.
        tangents: derivatives of the expected value by direction.
        storage: storage dtype of the case.
    """
    if tuple(actual.shape) != tuple(budget.expected.shape):
        reason = f"{name}: got shape {tuple(actual.shape)}, expected {tuple(budget.expected.shape)}"
        return Judgement(output=name, verdict=Verdict.FAIL_SHAPE, reason=reason)
    wanted = stored_dtype(row, name, storage)
    if actual.dtype != wanted:
        reason = f"{name}: got {_dtype_name(actual.dtype)}, expected {_dtype_name(wanted)}"
        return Judgement(output=name, verdict=Verdict.FAIL_DTYPE, reason=reason)
    axes = _axes(row, name, actual.dim())
    values = actual.to(torch.float64)
    if bool(budget.overflow.all()) and values.numel():
        reason = f"{name}: a healthy execution of the recipe leaves the range of a format on the way to every element"
        return Judgement(output=name, verdict=Verdict.NO_POWER, reason=reason)
    if not values.numel():
        return Judgement(output=name, verdict=Verdict.PASS, max_ratio=0.0, max_error=0.0)
    bad = _nonfinite(values, budget)
    if bool(bad.any()):
        return _nonfinite_judgement(name, values, budget, bad, axes)
    return _numeric_judgement(name, values, budget, tangents, axes)


def judge_missing(name: str, budget: Budget) -> Judgement:
    """Returns the judgement of a gradient that autograd never reached: legal only where it is zero."""
    if not bool(budget.expected.any()):
        return Judgement(
            output=name, verdict=Verdict.PASS, max_ratio=0.0, max_error=0.0, elements=budget.expected.numel()
        )
    reason = f"{name}: got no gradient, expected one of shape {tuple(budget.expected.shape)}"
    return Judgement(output=name, verdict=Verdict.FAIL_SHAPE, reason=reason)


def _nonfinite(values: Tensor, budget: Budget) -> Tensor:
    """Returns where a value is not finite although the expected one is, or the other way round.

    A value beyond the largest number of the stored format is infinite in every legal execution.
    """
    expected = budget.expected
    finite = torch.isfinite(expected)
    largest = _LARGEST.get(budget.fmt, math.inf)
    beyond = finite & (expected.abs() + budget.tolerance >= largest) & torch.isinf(values)
    beyond &= torch.sign(values) == torch.sign(expected)
    same = torch.where(finite, torch.isfinite(values), values == expected)
    return ~(same | beyond | budget.overflow)


def _nonfinite_judgement(
    name: str, values: Tensor, budget: Budget, bad: Tensor, axes: Sequence[str]
) -> Judgement:  # fmt: skip
    index = _index(int(bad.reshape(-1).to(torch.int8).argmax().item()), values.shape, axes)
    place = tuple(index.values())
    got, wanted = values[place].item(), budget.expected[place].item()
    reason = f"{name}[{_spell(index)}]: got {got}, expected {wanted:.9g} ({int(bad.sum().item())} such elements)"
    return Judgement(
        output=name, verdict=Verdict.FAIL_NONFINITE, reason=reason, worst_index=index, actual=got, expected=wanted,
        bound=budget.tolerance[place].item(), elements=values.numel(),
    )  # fmt: skip


def _numeric_judgement(
    name: str, values: Tensor, budget: Budget, tangents: Mapping[str, Tensor], axes: Sequence[str]
) -> Judgement:  # fmt: skip
    finite = torch.isfinite(budget.expected) & torch.isfinite(values) & ~budget.overflow
    errors = torch.where(finite, values - torch.where(finite, budget.expected, 0.0), 0.0)
    ratios = errors.abs() / budget.tolerance
    worst = int(ratios.reshape(-1).argmax().item())
    index = _index(worst, values.shape, axes)
    place = tuple(index.values())
    max_ratio = ratios.reshape(-1)[worst].item()
    nearest = (budget.nearest.abs() / budget.tolerance).max().item()
    aggregates = _aggregates(budget, errors, tangents, axes)
    verdict, reason = _verdict(max_ratio, aggregates)
    gravest = max(max_ratio, _worst_excess(aggregates))
    if verdict is not Verdict.PASS and nearest > 1 and gravest <= AMBIGUOUS_RATIO * nearest:
        verdict = Verdict.NO_POWER
        reason = f": the recipe's own round-to-nearest execution is off by {nearest:.3g} times this budget"
    if verdict is Verdict.PASS and _passes_zeros(budget, aggregates):
        verdict, reason = Verdict.NO_POWER, ": an output of zeros would pass as well"
    got, wanted, bound = values[place].item(), budget.expected[place].item(), budget.tolerance[place].item()
    if reason == "element":
        reason = f"[{_spell(index)}]: got {got:.9g}, expected {wanted:.9g}, bound {bound:.3g}, ratio {max_ratio:.3g}"
    size = budget.expected[finite].square().mean().sqrt().item() if bool(finite.any()) else 0.0
    gains = [item.limit + abs(item.error) for item in aggregates if item.name == "gain"]
    return Judgement(
        output=name,
        verdict=verdict,
        reason=f"{name}{reason}" if reason else "",
        max_ratio=max_ratio,
        max_error=errors.abs().max().item(),
        worst_index=index,
        actual=got,
        expected=wanted,
        bound=bound,
        rms_ratio=rms(budget, errors),
        elements=values.numel(),
        aggregates=aggregates,
        smallest_gain=gains[0] if gains else None,
        smallest_element=budget.tolerance.median().item() / size if size > 0 else None,
        nearest_ratio=nearest,
    )


def _aggregates(
    budget: Budget, errors: Tensor, tangents: Mapping[str, Tensor], axes: Sequence[str]
) -> list[Aggregate]:  # fmt: skip
    directions = {"gain": budget.expected, "bias": torch.ones_like(errors)}
    directions |= {f"along:{name}": tangent for name, tangent in tangents.items()}
    result = []
    for name, direction in directions.items():
        found = project(budget, errors, direction)
        if found is not None:
            result.append(
                Aggregate(
                    name=name, value=found.value, limit=found.limit, error=found.error, nearest=found.nearest,
                    directed=found.directed, weight=found.weight,
                )
            )  # fmt: skip
    result += slice_gains(budget, errors, axes)
    return [*result, *(item for item in (spread(budget, errors), lean(budget, errors)) if item is not None)]


def _passes_zeros(budget: Budget, aggregates: Sequence[Aggregate]) -> bool:
    """Returns whether zeros instead of the expected values would be within every bound."""
    expected = torch.where(torch.isfinite(budget.expected) & ~budget.overflow, budget.expected, 0.0)
    if not bool(expected.any()) or bool((expected.abs() > budget.tolerance).any()):
        return False
    return all(item.limit >= 1 for item in aggregates if item.name == "gain")


def _worst_excess(aggregates: Sequence[Aggregate]) -> float:
    """Returns the largest ratio of an aggregate to its limit."""
    return max((item.excess for item in aggregates), default=0.0)


def _verdict(max_ratio: float, aggregates: Sequence[Aggregate]) -> tuple[Verdict, str]:
    """Returns the verdict, and what to say: ``"element"``, a sentence about an aggregate, or nothing."""
    ratio = _worst_excess(aggregates)
    aggregate = max(aggregates, key=lambda item: _worst_excess([item]), default=None)
    gravest = max(max_ratio, ratio)
    if gravest <= 1:
        return Verdict.PASS, ""
    verdict = Verdict.AMBIGUOUS if gravest <= AMBIGUOUS_RATIO else Verdict.FAIL_NUMERIC
    if aggregate is None or max_ratio >= ratio:
        return verdict, "element"
    return verdict, f": {_say(aggregate)}"


def _say(test: Aggregate) -> str:
    kind, _, rest = test.name.partition(":")
    if kind == "bias":
        return f"errors share a sign: mean {test.value:.3g}, largest legal {test.limit:.3g}"
    if kind == "spread":
        return (
            f"errors are larger than legal ones: mean square {test.value:+.3g} sigma^2, at most {test.limit:.3g} legal"
        )
    if kind == "lean":
        return f"errors lean to one side: mean sign {test.value:+.3g}, largest legal {test.limit:.3g}"
    what = {"gain": "gain", "slice": f"gain of {rest}"}.get(kind, f"off along {rest}")
    return f"{what} {100 * test.value:+.4g} %, largest legal {100 * test.limit:.3g} %"


def _axes(row: Operation, name: str, dims: int) -> Sequence[str]:
    for output in row.outputs:
        if output.name == name:
            return output.axes
    named = row.axes.get(name.removeprefix(GRAD), ())
    return named if len(named) == dims else [f"axis{axis}" for axis in range(dims)]


def _index(flat: int, shape: Sequence[int], axes: Sequence[str]) -> dict[str, int]:
    index = {}
    for axis, size in zip(reversed(axes), reversed(shape), strict=True):
        index[axis] = flat % size
        flat //= size
    return dict(reversed(index.items()))


def _spell(index: Mapping[str, int]) -> str:
    return ", ".join(f"{axis}={place}" for axis, place in index.items())


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
