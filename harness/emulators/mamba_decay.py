"""Mamba's decay gate as kernels do it: in the accumulator's format, whatever the storage is.

Rounding points: ``argument`` (x + dt_bias, whose absolute error is a relative one of a tiny softplus), ``step`` (the
softplus), ``rate`` (the exponential of a_log), ``argument.slope.grad`` (the derivative of softplus), ``a_log.grad`` and
``dt_bias.grad`` (sums over all tokens).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from harness.emulators.arithmetic import Arithmetic
from harness.emulators.parts import on_gradient

__all__ = ["emulate"]


def emulate(arithmetic: Arithmetic, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:  # noqa: ARG001 - every emulator has this call
    """Returns ``{"out": -exp(a_log) * softplus(x + dt_bias)}`` before the final store, differentiable.

    Args:
        arithmetic: the recipe and what happens at its rounding points.
        tensors: ``x`` (B, T, H), ``a_log`` and ``dt_bias`` (H,) behind the sample axis.
        options: none.
    """
    x = tensors["x"]
    argument = arithmetic.wide("argument", x + _per_head(arithmetic, "dt_bias", tensors["dt_bias"], x))
    argument = on_gradient(
        arithmetic,
        argument,
        lambda grad: arithmetic.rounding.approximate("argument.slope.grad", grad, arithmetic.exp_error),
    )
    step = arithmetic.approximate("step", torch.logaddexp(argument, torch.zeros_like(argument)))
    rate = arithmetic.approximate("rate", tensors["a_log"].exp())
    return {"out": -_per_head(arithmetic, "a_log", rate, x) * step}


def _per_head(arithmetic: Arithmetic, point: str, value: Tensor, x: Tensor) -> Tensor:
    return arithmetic.spread(point, value[:, None, None, :], x.shape)
