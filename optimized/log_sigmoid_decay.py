"""The log-sigmoid decay gate on Triton kernels, forward and backward.

``y = log(sigmoid(x)) / normalizer``, and with the cotangent ``g``: ``dx = g sigmoid(-x) / normalizer``. Everything is
float32 inside, and so is the result. Letters: B batch, T tokens, H heads.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from optimized.eager.checks import check_shape
from optimized.kernels.decays_launch import launch_log_sigmoid_backward, launch_log_sigmoid_forward
from optimized.kernels.support import refuse_tensors

__all__ = ["log_sigmoid_decay", "supports"]


def log_sigmoid_decay(x: torch.Tensor, *, normalizer: float) -> torch.Tensor:
    """Returns the log decay ``log(sigmoid(x)) / normalizer``, accurate also where it is tiny.

    Args:
        x: ``(B, T, H)``, float32, bfloat16 or float16, any strides.
        normalizer: positive divisor.

    Returns:
        ``(B, T, H)``, contiguous, float32 whatever the format of ``x``. The gradient has that format.

    Raises:
        ValueError: ``x`` has another number of axes, the normalizer is not positive, or ``supports`` names a reason.

    Source: Yang et al., "Gated Linear Attention Transformers", section 4.4.
    """
    check_shape("x", x, ("B", "T", "H"))
    if not normalizer > 0:
        raise ValueError(f"normalizer: got {normalizer!r}, expected a positive number")
    reason = supports(x, normalizer=normalizer)
    if reason is not None:
        raise ValueError(reason)
    result: torch.Tensor = _LogSigmoidDecay.apply(x, float(normalizer))  # type: ignore[no-untyped-call]  # torch
    return result


def supports(x: torch.Tensor, *, normalizer: float) -> str | None:  # noqa: ARG001  # the call's own arguments
    """Returns None if ``log_sigmoid_decay`` computes this call, else a sentence that says why not."""
    return refuse_tensors(x)


class _LogSigmoidDecay(torch.autograd.Function):
    """Ties the forward and the backward kernel together."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # takes attributes
        x: torch.Tensor,
        normalizer: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.normalizer = normalizer
        # Triton launches on the current device, which need not be that of the tensors (autograd sees to it backwards).
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # torch
            return launch_log_sigmoid_forward(x, normalizer=normalizer)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401  # takes attributes
        out_gradient: torch.Tensor,
    ) -> tuple[torch.Tensor, None]:
        (x,) = ctx.saved_tensors
        return launch_log_sigmoid_backward(x, out_gradient, normalizer=ctx.normalizer), None
