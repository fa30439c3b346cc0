"""Two tests of errors as such, whatever their direction: are there too large ones, and do they lean to one side.

``spread`` is the mean square of ``error / sigma``, about 1 for an execution that uses its whole recipe. A candidate
that rounds more than its recipe says shows here long before an element leaves its tolerance.

``lean`` is the mean of ``sign(error) sign(expected)`` over the elements whose error is mostly that of the last store:
truncation towards zero makes it -1, rounding to nearest leaves it near 0.
"""

import torch
from torch import Tensor

from harness.alarms import PER_TEST, limit_of
from harness.budget import Budget
from harness.emulators.rounding import to_nearest
from harness.metrics import usable
from harness.records import Aggregate

__all__ = ["lean", "spread"]

_EXTREME = 3.0
"""Mean square of a rounding that errs by its whole unit, in units of that of a uniform one: ``1 / (1/3)``."""

_MOSTLY = 0.5
"""Share of the variance from which on the last store decides an error's sign."""


def spread(budget: Budget, errors: Tensor) -> Aggregate | None:
    """Returns by how much the mean square of ``error / sigma`` is above that of legal executions.

    The legal value is the largest of: the mean of the random executions, each in units of a sigma that the others gave;
    every round-to-nearest execution; and the one whose special functions err one way by all they may. Three times that
    is granted, because a constant that a kernel rounds (log2(e), a scale) is off by the same amount in every element,
    perhaps by all that it may: then the mean square is three times that of random executions, however many there are.
    """
    use = usable(budget, errors)
    count = int(use.sum())
    samples = budget.samples.shape[0]
    if not count or samples < 2:
        return None
    scale = torch.where(use, budget.sigma, torch.inf).square().reciprocal() / count
    squares = budget.samples.square()
    # A sample took part in its own sigma; without it, the others' mean square is what a new execution meets.
    rest = (squares.sum(0) - squares) / (samples - 1)
    shrunk = (budget.sigma.square() - budget.store_variance).clamp_min(0.0)
    others = torch.where(shrunk > 0, 0.5 * (rest - squares.mean(0)) + shrunk, shrunk).clamp_min(0.25 * shrunk)
    left_out = torch.where(use, (squares + budget.store_variance) / (others + budget.store_variance), 0.0) / count
    legal = left_out.reshape(samples, -1).sum(1)
    fixed = torch.cat([budget.nearest, budget.directed]).square() * scale
    value = (torch.where(use, errors, 0.0).square() * scale).sum().item()
    usual = max(legal.mean().item(), fixed.reshape(fixed.shape[0], -1).sum(1).max().item(), 1.0)
    independent = 2 * budget.alike.square(torch.where(use, 1.0 / count, 0.0))
    error = (legal.var().item() + independent) ** 0.5
    return Aggregate(
        name="spread",
        value=value - _EXTREME * usual,
        limit=limit_of(PER_TEST) * error,
        error=error,
        weight=float(count),
    )


def lean(budget: Budget, errors: Tensor) -> Aggregate | None:
    """Returns by how much the signs of the errors lean away from where those of legal executions do."""
    use = usable(budget, errors) & (budget.store_variance >= _MOSTLY * budget.sigma.square()) & (budget.expected != 0)
    count = int(use.sum())
    if not count:
        return None
    weight = torch.where(use, torch.sign(budget.expected) / count, 0.0)
    safe = torch.where(torch.isfinite(budget.expected), budget.expected, 0.0)
    stored = to_nearest(safe + budget.samples, budget.fmt) - safe
    legal = (torch.sign(stored) * weight).reshape(stored.shape[0], -1).sum(1)
    value = (torch.sign(torch.where(use, errors, 0.0)) * weight).sum().item()
    spread_of = legal.var().item() if legal.numel() > 1 else 0.0
    # Values that are stored alike are close enough to be rounded in the same direction, whatever their last bits.
    # A value and its negative round alike too, away from zero or towards it: in a lean they add up, never cancel.
    error = (spread_of + budget.stored_alike.square(weight)) ** 0.5
    return Aggregate(
        name="lean", value=value - legal.mean().item(), limit=limit_of(PER_TEST) * error, error=error,
        weight=float(count),
    )  # fmt: skip
