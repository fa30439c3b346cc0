"""RMSNorm as kernels do it: rows normalised in the accumulator's format, then the weight.

Rounding points: those of ``l2_norm.unit_rows`` in the accumulator's format even in eager recipes, since a reciprocal
root stored in 16 bits is a known fault (all elements of a row move alike); ``gain``, which is ``1 + weight``;
``weight.grad``, the sum over all rows; and, eager only, ``normalised``, which is stored, and the terms of that sum,
``weight.products.grad``.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from harness.emulators.arithmetic import Arithmetic
from harness.emulators.l2_norm import unit_rows
from harness.emulators.parts import fused, gradient_kept

__all__ = ["emulate"]


def emulate(arithmetic: Arithmetic, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns ``{"out": x / sqrt(mean(x^2) + eps) * w}`` before the final store, differentiable.

    Args:
        arithmetic: the recipe and what happens at its rounding points.
        tensors: ``x`` (..., C) and ``weight`` (C,) behind the sample axis.
        options: ``eps`` and ``zero_centered`` (``w = 1 + weight``).
    """
    x, weight = tensors["x"], tensors["weight"]
    rows = unit_rows(fused(arithmetic), x, count=x.shape[-1], eps=float(options["eps"]))
    # A fused kernel's rounding of a normalised element is small beside the noise of its row's root.
    normalised = arithmetic.keep("normalised", rows) if arithmetic.is_eager else rows
    gain = arithmetic.keep("gain", weight + 1) if options.get("zero_centered", False) else weight
    row = gain.reshape(gain.shape[0], *([1] * (x.dim() - 2)), gain.shape[-1])
    return {"out": normalised * gradient_kept(arithmetic, "weight.products", arithmetic.spread("weight", row, x.shape))}
