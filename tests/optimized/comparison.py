"""An operation and its formula side by side: results and gradients, and their errors as parts of a bound."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

__all__ = ["compared", "differentiated", "normal", "worst_ratio"]


def normal(*shape: int, seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Returns seeded normal numbers."""
    return (scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).to(dtype)


def differentiated(
    operation: Callable[..., torch.Tensor],
    tensors: Sequence[torch.Tensor],
    cotangent: torch.Tensor,
    **options: Any,
) -> tuple[torch.Tensor, ...]:
    """Returns the result and the gradient of every tensor, which keeps its strides."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    out = operation(*leaves, **options)
    return (out.detach(), *torch.autograd.grad(out, leaves, cotangent))


def compared(
    operation: Callable[..., torch.Tensor],
    formula: Callable[..., torch.Tensor],
    tensors: Sequence[torch.Tensor],
    cotangent: torch.Tensor,
    **options: Any,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Returns ``(actual, expected)`` of the result and of every gradient; the formula gets the values in float64."""
    actual = differentiated(operation, tensors, cotangent, **options)
    expected = differentiated(formula, [tensor.double() for tensor in tensors], cotangent.double(), **options)
    return list(zip(actual, expected, strict=True))


def worst_ratio(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], bounds: Sequence[torch.Tensor]) -> float:
    """Returns the largest error over its bound; a NaN on either side counts as infinite, no elements as 0."""
    ratios = [
        ((actual.double() - expected).abs() / bound).nan_to_num(nan=torch.inf).amax()
        for (actual, expected), bound in zip(pairs, bounds, strict=True)
        if actual.numel()
    ]
    return max(map(float, ratios), default=0.0)
