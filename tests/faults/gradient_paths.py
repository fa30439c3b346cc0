"""Changes on one path of the gradient, and roundings that the gradient does not see."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Change", "passed", "through"]

Change = Callable[[Tensor], Tensor]


def passed(x: Tensor, change: Change) -> Tensor:
    """Returns ``x``, whose gradient is changed on the way back, memory layout included."""
    return _Passed.apply(x, change)  # type: ignore[no-any-return,no-untyped-call]  # autograd.Function is untyped


def through(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns ``x`` rounded to a dtype and back; the gradient passes."""
    return _Replaced.apply(x, x.detach().to(dtype).to(x.dtype))  # type: ignore[no-any-return,no-untyped-call]  # autograd.Function is untyped


class _Passed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Change) -> Tensor:
        ctx.change = change
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.change(grads[0]), None


class _Replaced(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:  # noqa: ARG004 - autograd's own signature
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004 - autograd's own signature
        return grads[0], None
