"""The log decay of gated linear attention: the logarithm of a sigmoid, divided by a temperature.

Source: Yang et al., "Gated Linear Attention Transformers with Hardware-Efficient Training" (2023), section 4.4, where
the normaliser is the temperature 16.
"""

import torch
from torch import Tensor

from reference.checks import require_floats, require_positive

__all__ = ["log_sigmoid_decay"]


def log_sigmoid_decay(x: Tensor, *, normalizer: float) -> Tensor:
    """Returns the log decay ``log(sigmoid(x)) / normalizer``, never positive.

    Numerics:
        ``log(sigmoid(x)) = -softplus(-x) = min(x, 0) - log1p(exp(-|x|))``: no overflow for large ``|x|`` and full
        relative accuracy where it is tiny (x = 40: -4.2e-18). Its gradient ``1 / (1 + exp(x))`` is as accurate.

    Args:
        x: any shape.
        normalizer: positive number.

    Returns:
        Shape and dtype of x.

    Raises:
        TypeError: x is no floating-point tensor, or normalizer is no number.
        ValueError: normalizer is not positive.
    """
    require_floats(x=x)
    require_positive("normalizer", normalizer)
    return -torch.logaddexp(-x, x.new_zeros(())) / normalizer
