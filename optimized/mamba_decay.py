"""Mamba's decay gate on Triton kernels, forward and backward.

``y = -exp(a_log) softplus(z)`` with ``z = x + dt_bias``. With the cotangent ``g``::

    dx = -g exp(a_log) sigmoid(z)        ddt_bias = sum over tokens of dx        da_log = sum over tokens of g y

Everything is float32 inside, and so is the result. A program of the backward pass adds up the gradients per head of its
own tokens and torch adds up the programs in a fixed order: gradients repeat bit by bit.
Letters: B batch, T tokens, H heads.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from optimized.eager.checks import check_shape
from optimized.kernels.decays_launch import launch_mamba_backward, launch_mamba_forward
from optimized.kernels.support import refuse_tensors

__all__ = ["mamba_decay", "supports"]


def mamba_decay(x: torch.Tensor, a_log: torch.Tensor, dt_bias: torch.Tensor) -> torch.Tensor:
    """Returns the log decay ``-exp(a_log) * softplus(x + dt_bias)``, accurate also where softplus is tiny.

    Args:
        x: ``(B, T, H)``, float32, bfloat16 or float16, any strides.
        a_log: ``(H,)``, one of these formats.
        dt_bias: ``(H,)``, one of these formats.

    Returns:
        ``(B, T, H)``, contiguous, float32 whatever the formats of the arguments. Gradients have those formats.

    Raises:
        ValueError: a shape disagrees, or ``supports`` names a reason.

    Source: Yang et al., "Gated Delta Networks", section 3.4, with the parameterisation of Mamba-2.
    """
    check_shape("x", x, ("B", "T", "H"))
    check_shape("a_log", a_log, (x.shape[-1],))
    check_shape("dt_bias", dt_bias, (x.shape[-1],))
    reason = supports(x, a_log, dt_bias)
    if reason is not None:
        raise ValueError(reason)
    result: torch.Tensor = _MambaDecay.apply(x, a_log, dt_bias)  # type: ignore[no-untyped-call]  # torch
    return result


def supports(x: torch.Tensor, a_log: torch.Tensor, dt_bias: torch.Tensor) -> str | None:
    """Returns None if ``mamba_decay`` computes this call, else a sentence that says why not; arguments as there."""
    return refuse_tensors(x, a_log, dt_bias)


class _MambaDecay(torch.autograd.Function):
    """Ties the forward and the backward kernel together."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # takes attributes
        x: torch.Tensor,
        a_log: torch.Tensor,
        dt_bias: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, a_log, dt_bias)
        # Triton launches on the current device, which need not be that of the tensors (autograd sees to it backwards).
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # torch
            return launch_mamba_forward(x, a_log, dt_bias)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401  # takes attributes
        out_gradient: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x, a_log, dt_bias = ctx.saved_tensors
        return launch_mamba_backward(x, a_log, dt_bias, out_gradient)
