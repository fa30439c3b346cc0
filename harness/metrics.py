"""Aggregate statistics of an error tensor: small functions on float64 tensors.

With ``z = error / sigma`` and a direction ``x = d / sigma`` (``d`` the expected value, its derivative along an
argument, or the constant 1), the projection ``sum(z x) / sum(x^2)`` estimates by how much of ``d`` the result is off.
It finds what hides below every element's tolerance: a scale that is wrong by 1 %, truncation instead of rounding.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.budget import LAMBDA, Budget

__all__ = ["Projection", "project", "rms"]

_SMALLEST_NORMAL = 2.0**-126
"""Of float32: what underflows there is compared absolutely, element by element, and says nothing in a sum."""

_MANTISSA = 0x000FFFFFFFFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """An estimate, its largest legal value and its standard error.

    Attributes:
        value: the candidate's projection.
        limit: what round-to-nearest executions show in the same run, plus ``LAMBDA`` standard errors.
        error: standard error under a legal execution.
    """

    value: float
    limit: float
    error: float


def project(budget: Budget, errors: Tensor, direction: Tensor) -> Projection | None:
    """Returns the projection of errors on a direction; None where the direction vanishes.

    The standard error has two parts: what the random executions show, and the last store, for which elements of equal
    expected value round alike and so add up before they are squared.

    Args:
        budget: of the tensor.
        errors: the candidate's errors.
        direction: same shape; its scale cancels.
    """
    use = (budget.sigma > _SMALLEST_NORMAL) & torch.isfinite(direction) & torch.isfinite(errors)
    x = torch.where(use, direction / budget.sigma, 0.0)
    norm = x.square().sum().item()
    if not norm > 0:
        return None
    weight = torch.where(use, x / budget.sigma, 0.0) / norm
    value = (errors.nan_to_num(0.0, 0.0, 0.0) * weight).sum().item()
    flat = weight.reshape(1, -1)
    legal = budget.samples.reshape(budget.samples.shape[0], -1) @ flat.T
    nearest = budget.nearest.reshape(budget.nearest.shape[0], -1) @ flat.T
    store = _coherent_square(weight * budget.store_variance.sqrt(), budget.expected)
    error = (legal.square().mean().item() + store) ** 0.5
    return Projection(value=value, limit=nearest.abs().max().item() + LAMBDA * error, error=error)


def rms(budget: Budget, errors: Tensor) -> float | None:
    """Returns the root mean square of ``error / sigma``; about 1 for a kernel that uses its whole recipe."""
    use = budget.sigma > 0
    if not bool(use.any()):
        return None
    return float((errors[use].nan_to_num(0.0, 0.0, 0.0) / budget.sigma[use]).square().mean().sqrt().item())


def _coherent_square(amount: Tensor, expected: Tensor) -> float:
    """Returns the sum of squares after adding up what belongs to equal expected values.

    Opposite values and values that differ by a power of two round alike, too.
    """
    key = ((expected.contiguous().view(torch.int64) & _MANTISSA) + (1 << 11)) >> 12
    amount = torch.copysign(torch.ones_like(expected), expected) * amount
    _, group = torch.unique(key.reshape(-1), return_inverse=True)
    sums = torch.zeros(int(group.max().item()) + 1 if group.numel() else 0, dtype=torch.float64)
    return float(sums.index_add_(0, group, amount.reshape(-1)).square().sum().item())
