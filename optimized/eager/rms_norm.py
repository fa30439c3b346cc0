"""RMSNorm in plain torch. Letters: C channels."""

import torch
from torch import Tensor

from optimized.eager.arithmetic import widened
from optimized.eager.checks import check_shape

__all__ = ["rms_norm", "rms_norm_stored"]


def rms_norm(x: Tensor, weight: Tensor, *, eps: float, zero_centered: bool = False) -> Tensor:
    """Computes ``x / sqrt(mean(x^2) + eps) * w`` over the last axis in float32 and rounds once.

    Args:
        x: any shape ending in C, floating point.
        weight: shape (C,); ``w = weight``, or ``1 + weight`` if ``zero_centered``.
        eps: added inside the root; a zero row gives 0.
        zero_centered: whether the weight is stored as its difference from 1.

    Returns:
        The shape and dtype of ``x``.

    Raises:
        ValueError: ``weight`` is not of shape (C,).

    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", section 4.
    """
    check_shape("weight", weight, (x.shape[-1],))
    gain = widened(weight) + 1 if zero_centered else widened(weight)
    return (_normalised(x, eps=eps) * gain).to(x.dtype)


def rms_norm_stored(x: Tensor, weight: Tensor, *, eps: float, zero_centered: bool = False) -> Tensor:
    """Computes what ``rms_norm`` does, but stores the normalised row and ``1 + weight`` in the dtype of ``x``.

    Source: the order of roundings is that of transformers' Qwen3 and DeepSeek-V3 norms.
    """
    check_shape("weight", weight, (x.shape[-1],))
    gain = weight + 1 if zero_centered else weight
    return _normalised(x, eps=eps).to(x.dtype) * gain.to(x.dtype)


def _normalised(x: Tensor, *, eps: float) -> Tensor:
    wide = widened(x)
    return wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
