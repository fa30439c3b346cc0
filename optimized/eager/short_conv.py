"""Causal depthwise convolution with SiLU in plain torch. Letters: B batch, T tokens, C channels, K taps."""

import torch
from torch import Tensor
from torch.nn import functional

from optimized.eager.arithmetic import widened
from optimized.eager.checks import check_shape

__all__ = ["masked", "short_conv", "short_conv_stored"]


def short_conv(x: Tensor, weight: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Computes ``silu(sum_j weight[c, j] * x[b, t - (K - 1) + j, c])`` in float32 and rounds once.

    Args:
        x: shape (B, T, C); tokens before the start count as 0.
        weight: shape (C, K); tap K - 1 is the current token.
        mask: shape (B, T) or None; multiplies ``x`` first, see ``masked``.

    Returns:
        Shape (B, T, C), dtype of ``x``.

    Raises:
        ValueError: a shape disagrees.

    Source: the causal_conv1d of Mamba (Gu and Dao, "Mamba", section 3.4) with its SiLU.
    """
    return functional.silu(_convolved(x, weight, mask=mask)).to(x.dtype)


def short_conv_stored(x: Tensor, weight: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Computes what ``short_conv`` does, with the sum stored in the dtype of ``x`` before the SiLU.

    The sum itself is a float32 one, as on a GPU: torch's own 16-bit convolution on a CPU adds the weight's gradient up
    in 16 bits on some machines.
    """
    return functional.silu(_convolved(x, weight, mask=mask).to(x.dtype))


def masked(x: Tensor, mask: Tensor) -> Tensor:
    """Returns ``x`` (B, T, C) times a mask (B, T); False of a boolean one makes a 0 of anything, NaN included."""
    column = mask.unsqueeze(-1)
    return x.masked_fill(~column, 0.0) if mask.dtype == torch.bool else x * column.to(x.dtype)


def _convolved(x: Tensor, weight: Tensor, *, mask: Tensor | None) -> Tensor:
    """Returns the causal sum over the taps, (B, T, C), not rounded to the dtype of ``x``."""
    check_shape("x", x, ("B", "T", "C"))
    B, T, C = x.shape
    check_shape("weight", weight, (C, "K"))
    if mask is not None:
        check_shape("mask", mask, (B, T))
        x = masked(x, mask)
    padded = functional.pad(widened(x).transpose(1, 2), (weight.shape[1] - 1, 0))
    return functional.conv1d(padded, widened(weight).unsqueeze(1), groups=C).transpose(1, 2)
