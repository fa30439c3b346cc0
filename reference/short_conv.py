"""Causal depth-wise convolution over a few tokens, followed by SiLU.

Legend: B batch, T tokens, C channels, K taps.

Source: the short convolution of H3 (Fu et al., 2022, section 3.1) and Mamba (Gu and Dao, 2023, section 3.4).
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from reference.checks import require_bool, require_floats, require_shape
from reference.sigmoid import sigmoid

__all__ = ["short_conv"]


def short_conv(x: Tensor, weight: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Returns ``silu(sum_j weight[c, j] * x[b, t - (K - 1) + j, c])``.

    Conventions:
        Tap ``K - 1`` is the current token, tap 0 the oldest; tokens before the start are 0, also when ``T < K``.
        Channels do not mix. The mask multiplies x first: a masked token contributes nothing to later ones, but has an
        output of its own, made of those before it.

    Args:
        x: ``(B, T, C)``.
        weight: ``(C, K)``, ``K >= 1``, of the dtype of x.
        mask: ``(B, T)``, boolean or of the dtype of x; None is all ones.

    Returns:
        Shape and dtype of x.

    Raises:
        TypeError: an argument is no floating-point tensor, or the dtypes differ.
        ValueError: the shapes or devices disagree, or ``K = 0``.
    """
    require_floats(x=x, weight=weight)
    require_shape("x", x, B=None, T=None, C=None)
    B, T, C = x.shape
    require_shape("weight", weight, C=C, K=None)
    K = weight.shape[1]
    if K == 0:
        raise ValueError("weight: got no taps, expected (C, K) with K >= 1")
    if mask is not None:
        if isinstance(mask, Tensor) and mask.dtype == torch.bool:
            require_bool("mask", mask, device=x.device)
        else:
            require_floats(x=x, mask=mask)
        require_shape("mask", mask, B=B, T=T)
        x = x * mask.unsqueeze(-1)
    padded = pad(x, (0, 0, K - 1, 0))
    total = weight[:, 0] * padded[:, :T]
    for j in range(1, K):
        total = total + weight[:, j] * padded[:, j : j + T]
    return total * sigmoid(total)
