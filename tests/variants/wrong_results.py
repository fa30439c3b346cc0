"""Faults at the end of a correct call: a part of the result is wrong, and the gradients follow it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["element_doubled", "element_nan", "gradients_zero", "head_5_percent", "truncated"]

Call = Callable[..., Any]


def _on_first(change: Callable[[Tensor], Tensor]) -> Callable[[Call], Call]:
    """Returns a fault that changes the first output."""

    def seed(base: Call) -> Call:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = base(*args, **kwargs)
            if isinstance(result, Tensor):
                return change(result)
            return change(result[0]), *result[1:]

        return call

    return seed


def _last_head(out: Tensor) -> Tensor:
    factor = torch.ones(out.shape[2], 1)
    factor[-1] = 1.05
    return (out.float() * factor).to(out.dtype)


def _one_element(out: Tensor, factor: float) -> Tensor:
    factors = torch.ones(out.numel())
    factors[out.numel() // 2] = factor
    return (out.float() * factors.reshape(out.shape)).to(out.dtype)


head_5_percent = _on_first(_last_head)
element_doubled = _on_first(lambda out: _one_element(out, 2.0))
element_nan = _on_first(lambda out: _one_element(out, torch.nan))
gradients_zero = _on_first(lambda out: out.detach() + out * 0)


def truncated(base: Call) -> Call:
    """Returns a call that computes in float32 and drops the bits that bfloat16 does not keep."""

    def call(*args: Any, **kwargs: Any) -> Any:
        wide = [item.float() if isinstance(item, Tensor) and item.is_floating_point() else item for item in args]
        options = {
            name: item.float() if isinstance(item, Tensor) and item.is_floating_point() else item
            for name, item in kwargs.items()
        }
        result = base(*wide, **options)
        if isinstance(result, Tensor):
            return _cut(result)
        return _cut(result[0]), *result[1:]

    return call


def _cut(value: Tensor) -> Tensor:
    """Returns float32 rounded towards zero to bfloat16; the gradient passes."""
    cut = (value.detach().contiguous().view(torch.int32) & -(2**16)).view(torch.float32)
    return (value + (cut - value.detach())).to(torch.bfloat16)
