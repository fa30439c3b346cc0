"""The log-sigmoid decay gate as kernels do it: in the accumulator's format, whatever the storage is.

Rounding points: ``out``, the function itself, and ``x.grad``, its derivative.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from harness.emulators.arithmetic import Arithmetic
from harness.emulators.parts import on_gradient

__all__ = ["emulate"]


def emulate(arithmetic: Arithmetic, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns ``{"out": log(sigmoid(x)) / normalizer}`` before the final store, differentiable.

    Args:
        arithmetic: the recipe and what happens at its rounding points.
        tensors: ``x`` (B, T, H) behind the sample axis.
        options: ``normalizer``.
    """
    x = on_gradient(
        arithmetic,
        tensors["x"],
        lambda grad: arithmetic.rounding.approximate("x.grad", grad, arithmetic.exp_error),
    )
    # log(sigmoid(x)) = -log(exp(-x) + exp(0)), accurate at both ends.
    value = -torch.logaddexp(-x, torch.zeros_like(x))
    factor = arithmetic.constant("normalizer", 1 / float(options["normalizer"])).squeeze(-1)
    return {"out": arithmetic.approximate("out", value * factor)}
