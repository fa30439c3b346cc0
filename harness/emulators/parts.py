"""Parts that several emulators share: rounded gradients, the logistic function and SiLU, names of a stage.

Every tensor is float64 with the sample axis first, as everywhere in this package.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from harness.emulators.arithmetic import Arithmetic, shared
from harness.emulators.rounding import FORMAT_BITS, Rounding, Walk, unit

__all__ = ["fused", "gradient_kept", "gradient_stored", "on_gradient", "silu", "stage", "stored_sigmoid"]

_SATURATED = 2.0**-16
"""Distance from 1 below which 24 bits of a logistic function say too little of its argument."""


class _Named:
    """A rounding whose points stand under the name of a stage: ``norm.root`` for the ``root`` of the stage ``norm``."""

    def __init__(self, name: str, rounding: Rounding) -> None:
        self.samples = rounding.samples
        self._name = name
        self._rounding = rounding

    def round(self, point: str, value: Tensor, fmt: str, *, keeps_exact: bool) -> Tensor:
        return self._rounding.round(f"{self._name}.{point}", value, fmt, keeps_exact=keeps_exact)

    def accumulate(
        self, point: str, value: Tensor, gauge: Callable[[], Tensor], fmt: str, *, key: Tensor | None = None,
        walk: Walk | None = None,
    ) -> Tensor:  # fmt: skip
        return self._rounding.accumulate(f"{self._name}.{point}", value, gauge, fmt, key=key, walk=walk)

    def approximate(self, point: str, value: Tensor, error: float) -> Tensor:
        return self._rounding.approximate(f"{self._name}.{point}", value, error)


def stage(arithmetic: Arithmetic, name: str) -> Arithmetic:
    """Returns the same arithmetic for one stage of a layer; the names of its points start with the stage's."""
    return Arithmetic(arithmetic.recipe, _Named(name, arithmetic.rounding), tile=arithmetic.tile)


def fused(arithmetic: Arithmetic) -> Arithmetic:
    """Returns the same arithmetic for operations that even an eager implementation does in the accumulator's format."""
    if not arithmetic.is_eager:
        return arithmetic
    return Arithmetic(replace(arithmetic.recipe, intermediates=None), arithmetic.rounding, tile=arithmetic.tile)


def on_gradient(arithmetic: Arithmetic, value: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Returns the value; its gradient, of this use alone, is changed on its way back."""
    if not value.requires_grad:
        return value
    use = value.view_as(value)
    use.register_hook(lambda grad: arithmetic.all_samples(change(grad)))  # type: ignore[no-untyped-call]  # torch's own
    return use


def gradient_kept(arithmetic: Arithmetic, point: str, value: Tensor) -> Tensor:
    """Returns the value; an eager implementation stores the gradient of this use as an intermediate, a fused one not.

    What the accumulator adds to a fused gradient belongs to the sums and functions that it passes.
    """
    if not arithmetic.is_eager:
        return value
    return on_gradient(
        arithmetic,
        value,
        lambda grad: arithmetic.rounding.round(
            f"{point}.grad", shared(grad), arithmetic.intermediates, keeps_exact=False
        ),
    )


def gradient_stored(arithmetic: Arithmetic, point: str, value: Tensor) -> Tensor:
    """Returns the value; the gradient of this use is the output of a kernel, in the storage format."""
    return on_gradient(arithmetic, value, lambda grad: arithmetic.round_storage(f"{point}.grad", grad))


def stored_sigmoid(arithmetic: Arithmetic, point: str, x: Tensor) -> Tensor:
    """Returns ``1 / (1 + exp(-x))`` as a kernel of its own stores it; its backward pass reads that result again."""
    value = _Sigmoid.apply(x, arithmetic, point)  # type: ignore[no-untyped-call]  # autograd.Function is untyped
    return gradient_stored(arithmetic, point, value)


def silu(arithmetic: Arithmetic, point: str, x: Tensor) -> Tensor:
    """Returns ``x / (1 + exp(-x))`` and its gradient as one kernel each, their results kept as intermediates."""
    return _Silu.apply(x, arithmetic, point)  # type: ignore[no-any-return,no-untyped-call]  # autograd.Function


def _logistic(arithmetic: Arithmetic, point: str, x: Tensor) -> Tensor:
    """Returns the logistic function as the accumulator gives it.

    A relative error ``e`` of the exponential is one of ``(1 - s) e`` in the result ``s``, and the rounding of ``s`` is
    never more than ``1 - s``, since the number 1 is there: both matter where the derivative reads ``1 - s``. Where
    ``exp(-x)`` overflows, the result is 0: what is lost is below the normal numbers, until a large factor follows.
    """
    value = torch.sigmoid(x)
    size = unit(arithmetic.recipe.accumulator)
    smallest = 2.0 ** FORMAT_BITS[arithmetic.recipe.accumulator][1]

    def gauge() -> Tensor:
        rest = 1 - value
        relative = (rest / size).clamp_max_(1.0).add_(rest, alpha=arithmetic.exp_error / size)
        return torch.where(value < smallest, 1 / size, relative).mul_(value)

    # Next to 1 many arguments share the leading bits of the result and yet err differently: go by the rest there.
    rest = torch.sigmoid(-x)
    key = torch.where(rest < _SATURATED, -rest, value)
    return arithmetic.rounding.accumulate(point, value, gauge, arithmetic.recipe.accumulator, key=key)


class _Sigmoid(torch.autograd.Function):
    """The logistic function, whose derivative ``s (1 - s)`` is made of the stored result."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, arithmetic: Arithmetic, point: str) -> Tensor:
        value = arithmetic.round_storage(f"{point}.stored", _logistic(arithmetic, point, shared(x)))
        ctx.save_for_backward(value)
        return arithmetic.all_samples(value)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None, None]:
        (value,) = ctx.saved_tensors  # type: ignore[attr-defined]  # torch's own attribute
        return grads[0] * (value * (1 - value)), None, None


class _Silu(torch.autograd.Function):
    """SiLU; its derivative ``s + x s (1 - s)`` has a zero near x = -1.28, where the noise is that of its two terms."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, arithmetic: Arithmetic, point: str) -> Tensor:
        x = shared(x)
        value = _logistic(arithmetic, f"{point}.sigmoid", x)
        ctx.save_for_backward(x, value)
        ctx.arithmetic, ctx.point = arithmetic, point  # type: ignore[attr-defined]  # contexts take any attribute
        return arithmetic.round_intermediate(point, x * value)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None, None]:
        x, value = ctx.saved_tensors  # type: ignore[attr-defined]  # torch's own attribute
        arithmetic, point = ctx.arithmetic, ctx.point  # type: ignore[attr-defined]  # set in forward
        grad = arithmetic.round_intermediate(f"{point}.grad", grads[0])
        second = x * (1 - value) * value
        slope = arithmetic.rounding.accumulate(
            f"{point}.slope", value + second, lambda: value + second.abs(), arithmetic.recipe.accumulator
        )
        return grad * slope, None, None
