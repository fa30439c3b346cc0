"""Aggregate statistics of an error tensor: small functions on float64 tensors.

With ``z = error / sigma`` and a direction ``x = d / sigma`` (``d`` the expected value, its derivative along an
argument, or the constant 1), the projection ``sum(z x) / sum(x^2)`` estimates by how much of ``d`` the result is off.
It finds what hides below every element's tolerance: a scale that is wrong by 1 %, truncation instead of rounding.

A projection's legal size has two parts. What round-to-nearest executions and executions with special functions that
err in one direction show in the same run is granted in full; beyond it, a number of standard errors that follows from
the false-alarm budget (``harness.alarms``).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.alarms import PER_TEST, limit_of
from harness.budget import Budget

__all__ = ["Projection", "project", "rms", "usable"]

_SMALLEST_NORMAL = 2.0**-126
"""Of float32: what underflows there is compared absolutely, element by element, and says nothing in a sum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """An estimate, its largest legal value, and what that is made of.

    Attributes:
        value: the candidate's.
        limit: largest legal absolute value.
        error: standard error under a legal execution.
        nearest: of the round-to-nearest execution that shows most, with its sign.
        directed: of the execution whose special functions all err upwards, with its sign.
        weight: ``sum(x^2)``; one over the squared standard error if the elements erred independently.
    """

    value: float
    limit: float
    error: float
    nearest: float = 0.0
    directed: float = 0.0
    weight: float = 0.0


def usable(budget: Budget, errors: Tensor) -> Tensor:
    """Returns which elements count in sums: finite, judged, and not underflowing in the accumulator."""
    return (budget.sigma > _SMALLEST_NORMAL) & torch.isfinite(errors)


def project(budget: Budget, errors: Tensor, direction: Tensor) -> Projection | None:
    """Returns the projection of errors on a direction; None where the direction vanishes.

    The standard error has two parts: what the random executions show, and the last store, for which elements of equal
    expected value round alike and so add up before they are squared.

    Args:
        budget: of the tensor.
        errors: the candidate's errors.
        direction: same shape; its scale cancels.
    """
    use = usable(budget, errors) & torch.isfinite(direction)
    x = torch.where(use, direction / budget.sigma, 0.0)
    norm = x.square().sum().item()
    if not norm > 0:
        return None
    weight = torch.where(use, x / budget.sigma, 0.0) / norm
    value = (errors.nan_to_num(0.0, 0.0, 0.0) * weight).sum().item()
    legal, nearest, directed = (_each(part, weight) for part in (budget.samples, budget.nearest, budget.directed))
    store = budget.alike.square(weight * budget.store_variance.sqrt())
    error = (legal.square().mean().item() + store) ** 0.5
    granted = max(nearest.abs().max().item(), directed.abs().max().item())
    return Projection(
        value=value,
        limit=granted + limit_of(PER_TEST) * error,
        error=error,
        nearest=nearest[nearest.abs().argmax()].item(),
        directed=directed[directed.abs().argmax()].item(),
        weight=norm,
    )


def rms(budget: Budget, errors: Tensor) -> float | None:
    """Returns the root mean square of ``error / sigma``; about 1 for a kernel that uses its whole recipe."""
    use = budget.sigma > 0
    if not bool(use.any()):
        return None
    return float((errors[use].nan_to_num(0.0, 0.0, 0.0) / budget.sigma[use]).square().mean().sqrt().item())


def _each(executions: Tensor, weight: Tensor) -> Tensor:
    """Returns the projection of each of several executions."""
    return executions.reshape(executions.shape[0], -1) @ weight.reshape(-1)
