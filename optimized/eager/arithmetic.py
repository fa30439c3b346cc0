"""Which dtype a fused kernel computes in: float64 for float64, float32 for everything narrower."""

import torch
from torch import Tensor

__all__ = ["arithmetic_dtype", "widened"]


def arithmetic_dtype(dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype in which values stored as ``dtype`` are computed with."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def widened(tensor: Tensor) -> Tensor:
    """Returns ``tensor`` in the dtype that it is computed with; exact, and its gradient is rounded once on the way."""
    return tensor.to(arithmetic_dtype(tensor.dtype))
