"""The error budget: how far legal executions of a recipe move each element, and what may be added by the last store.

Per element ``sigma^2`` is half its own mean square over the samples and half that of its row (the last axis): one
sample of an element is noisy, a row is not. The tolerance is ``LAMBDA * sigma`` plus half a unit in the last place of
the stored format plus the smallest normal number of the accumulator. Where the reference and every execution are
exactly zero, zero is structural (hidden keys, future tokens): the row lends nothing there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.alike import Alike, alike
from harness.emulators.arithmetic import Arithmetic
from harness.emulators.rounding import FORMAT_BITS, Directed, Identity, Nearest, Random, Rounding, half_ulp, to_nearest
from harness.operations.base import Inputs, Operation
from harness.operations.case import Case
from harness.truth import GRAD, Truth, promote
from optimized.candidate import Recipe

__all__ = ["LAMBDA", "Budget", "emulated", "measure_budgets", "second_formulation"]

LAMBDA = 7.0
"""Tolerance in units of sigma: with 8 samples and uniform noise, healthy kernels reach about half of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one output or gradient may be off by.

    Attributes:
        expected: the reference's value.
        sigma: standard deviation of a legal candidate's stored error.
        tolerance: largest absolute error that passes.
        store_variance: the part of ``sigma ** 2`` that comes from the last store.
        samples: errors of the random executions, before the last store, ``(samples, ...)``.
        nearest: errors of the round-to-nearest executions, after the last store, ``(executions, ...)``.
        directed: errors of an execution whose special functions all err upwards by as much as they may, after the last
            store, ``(executions, ...)``: granted to aggregates, because a kernel's exponential may well err one way.
        overflow: where a round-to-nearest execution leaves the range of a format on the way: not judged.
        alike: which expected values round alike.
        stored_alike: which of them are stored as the same number, whatever their last bits.
        fmt: format in which the candidate stores it.
    """

    expected: Tensor
    sigma: Tensor
    tolerance: Tensor
    store_variance: Tensor
    samples: Tensor
    nearest: Tensor
    directed: Tensor
    overflow: Tensor
    alike: Alike
    stored_alike: Alike
    fmt: str


def emulated(
    row: Operation, inputs: Inputs, arithmetic: Arithmetic, names: Sequence[str]
) -> dict[str, Tensor]:  # fmt: skip
    """Returns what an execution of the emulator gives for the named outputs and gradients, ``(samples, ...)``."""
    tensors = promote(inputs.tensors)
    wanted = [name.removeprefix(GRAD) for name in names if name.startswith(GRAD)]
    leaves = {
        name: item[None].expand(arithmetic.samples, *item.shape).requires_grad_(name in wanted)
        if item.is_floating_point()
        else item
        for name, item in tensors.items()
    }
    outputs = row.emulate(arithmetic, leaves, inputs.options)
    provided = [name for name in names if not name.startswith(GRAD)]
    result = {name: outputs[name].detach() for name in provided}
    pulled = [name for name in provided if outputs[name].requires_grad]
    if wanted and pulled:
        grads = torch.autograd.grad(
            [outputs[name] for name in pulled],
            [leaves[name] for name in wanted],
            [_expanded(inputs.cotangents[name], arithmetic.samples) for name in pulled],
            allow_unused=True,
        )
        for name, grad in zip(wanted, grads, strict=True):
            result[GRAD + name] = torch.zeros_like(leaves[name]) if grad is None else grad
    return result


def measure_budgets(
    row: Operation, case: Case, inputs: Inputs, recipe: Recipe, expected: Truth, *, samples: int | None = None
) -> dict[str, Budget]:  # fmt: skip
    """Returns the budget of every expected output and gradient.

    Args:
        row: the operation.
        case: gives the seed of the random executions.
        inputs: the stored inputs.
        recipe: the roundings that the candidate may do.
        expected: what the reference says.
        samples: number of random executions, spread over the operation's tile lengths; the operation's own if None.
    """
    names = list(expected.expected)
    tiles = row.tiles if any(order in recipe.free_orders for order in ("tile", "chunk")) else row.tiles[-1:]
    each = max(1, (samples or row.samples) // len(tiles))
    runs = [_run(row, inputs, recipe, Random(each, case.seed + 7919 * index), tile, names)
            for index, tile in enumerate(tiles)]  # fmt: skip
    nearest = [_run(row, inputs, recipe, Nearest(), tile, names) for tile in dict.fromkeys((tiles[0], tiles[-1]))]
    directed = _run(row, inputs, recipe, Directed(), tiles[-1], names)
    formats = _stored_formats(row, recipe.storage)
    return {
        name: _budget(
            expected.expected[name],
            torch.cat([run[name] for run in runs]),
            torch.cat([run[name] for run in nearest]),
            directed[name],
            formats.get(name, recipe.storage),
            recipe.accumulator,
        )
        for name in names
    }


def _run(
    row: Operation, inputs: Inputs, recipe: Recipe, rounding: Rounding, tile: int, names: Sequence[str]
) -> dict[str, Tensor]:
    return emulated(row, inputs, Arithmetic(recipe, rounding, tile=tile), names)


def _stored_formats(row: Operation, storage: str) -> Mapping[str, str]:
    narrow = storage in ("bfloat16", "float16")
    return {output.name: "float32" if output.wide and narrow else storage for output in row.outputs}


def _budget(
    expected: Tensor, samples: Tensor, nearest: Tensor, directed: Tensor, fmt: str, accumulator: str
) -> Budget:  # fmt: skip
    finite = torch.isfinite(expected)
    safe = torch.where(finite, expected, 0.0)
    # An execution that leaves a format's range on the way, or the reference's own, decides nothing there.
    overflow = finite & ~(torch.isfinite(to_nearest(nearest, fmt)).all(0) & torch.isfinite(samples).all(0))
    usable = finite & ~overflow
    errors = torch.where(usable, samples - safe, 0.0)
    stored = torch.where(usable, to_nearest(nearest, fmt) - safe, 0.0)
    one_way = to_nearest(directed, fmt) - safe
    own = errors.square().mean(0)
    rows = own.mean(-1, keepdim=True) if own.dim() and own.shape[-1] else own
    structural = (safe == 0) & (own == 0) & (nearest == 0).all(0)
    variance = torch.where(structural, 0.0, 0.5 * own + 0.5 * rows)
    reach = LAMBDA * variance.sqrt()
    half = torch.where(structural, 0.0, half_ulp(safe.abs() + reach, fmt))
    smallest = 2.0 ** max(FORMAT_BITS[accumulator][1], FORMAT_BITS[fmt][1] - FORMAT_BITS[fmt][0])
    store_variance = half.square() / 3
    return Budget(
        expected=expected,
        sigma=torch.where(overflow, 0.0, (variance + store_variance).sqrt()),
        tolerance=reach + half + smallest,
        store_variance=store_variance,
        samples=errors,
        nearest=stored,
        directed=torch.where(usable & torch.isfinite(one_way), one_way, 0.0),
        overflow=overflow,
        alike=alike(safe),
        stored_alike=alike(to_nearest(safe, fmt)),
        fmt=fmt,
    )


def _expanded(value: Tensor, samples: int) -> Tensor:
    return value.to(torch.float64)[None].expand(samples, *value.shape)


def second_formulation(
    row: Operation, inputs: Inputs, recipe: Recipe, expected: Truth, *, tile: int
) -> dict[str, Tensor]:
    """Returns the emulator's values without any rounding: an independent formulation of the operation."""
    return _run(row, inputs, recipe, Identity(), tile, list(expected.expected))
