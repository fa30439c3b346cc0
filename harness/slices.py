"""The gain of every part of a tensor: one head that is off by a percent hides in the gain of eight.

Parts are the slices of each axis: every head, batch row, sequence and channel, and tiles of 16 tokens, the first and
the last among them. Of each axis the part that is furthest from its limit is reported. A part has fewer elements than
the whole and its standard error is known less well from the same samples, so it is half its own and half that of all
parts of its axis, as for single elements.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from harness.alarms import PER_TEST, limit_of
from harness.budget import Budget
from harness.metrics import usable
from harness.records import Aggregate

__all__ = ["TILE", "slice_gains"]

TILE = 16
"""Tokens of a tile: the shortest that a matrix instruction takes."""

_TOKENS = frozenset({"token", "key"})


def slice_gains(budget: Budget, errors: Tensor, axes: Sequence[str]) -> Iterator[Aggregate]:
    """Yields, for every axis with several parts, the gain of the part that is furthest from its limit.

    Args:
        budget: of the tensor.
        errors: the candidate's errors.
        axes: names of the tensor's axes.
    """
    use = usable(budget, errors) & torch.isfinite(budget.expected)
    safe = torch.where(use, budget.expected, 0.0)
    inverse = torch.where(use, budget.sigma, torch.inf).reciprocal()
    x = safe * inverse  # expected in units of sigma
    for axis, name in enumerate(axes):
        part, count = _parts(axis, name, errors)
        if count > 1:
            yield from _furthest(budget, torch.where(use, errors, 0.0), x, inverse, part, count, name)


def _parts(axis: int, name: str, errors: Tensor) -> tuple[Tensor, int]:
    """Returns the part of every element, flat, and how many parts there are."""
    length = errors.shape[axis]
    each = TILE if name in _TOKENS else 1
    number = torch.arange(length).div(each, rounding_mode="floor")
    shape = [1] * errors.dim()
    shape[axis] = length
    return number.view(shape).expand(errors.shape).reshape(-1), -(-length // each)


def _furthest(
    budget: Budget, errors: Tensor, x: Tensor, inverse: Tensor, part: Tensor, count: int, name: str
) -> Iterator[Aggregate]:
    norm = _sums(x.square().reshape(1, -1), part, count)[0]
    there = norm > 0
    if int(there.sum()) < 2:
        return
    safe = torch.where(there, norm, 1.0)
    weight = (x * inverse).reshape(1, -1)
    gains, legal, nearest, directed = (
        _sums(values.reshape(values.shape[0], -1) * weight, part, count) / safe
        for values in (errors[None], budget.samples, budget.nearest, budget.directed)
    )
    stores = weight[0] * budget.store_variance.sqrt().reshape(-1)
    store = budget.alike.square_by_part(stores, part, count) / safe.square()
    own = legal.square().mean(0) + store
    # In units of what independent elements would give, parts of an axis are alike.
    usual = (own * safe)[there].mean()
    error = (0.5 * own + 0.5 * usual / safe).sqrt()
    granted = torch.maximum(nearest.abs().amax(0), directed.abs().amax(0))
    limit = granted + limit_of(PER_TEST / count) * error
    worst = int(torch.where(there, gains[0].abs() / limit, -1.0).argmax())
    label = f"{name}={worst}" if name not in _TOKENS else f"{name}s {worst * TILE} to {worst * TILE + TILE - 1}"
    yield Aggregate(
        name=f"slice:{label}", value=gains[0, worst].item(), limit=limit[worst].item(), error=error[worst].item()
    )


def _sums(values: Tensor, part: Tensor, count: int) -> Tensor:
    """Returns the sums over each part, ``(rows, parts)``."""
    return torch.zeros(values.shape[0], count, dtype=torch.float64).index_add_(1, part, values)
