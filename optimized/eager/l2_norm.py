"""L2 normalisation in plain torch."""

import torch
from torch import Tensor

from optimized.eager.arithmetic import widened

__all__ = ["l2_norm", "l2_norm_stored"]


def l2_norm(x: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Computes ``x / sqrt(sum(x^2) + eps)`` over the last axis in float32 and rounds once.

    Args:
        x: any shape, floating point.
        eps: added inside the root; a zero row gives 0.

    Returns:
        The shape and dtype of ``x``.

    Source: the convention of flash-linear-attention's ``l2norm`` (eps inside the root).
    """
    return l2_norm_stored(widened(x), eps=eps).to(x.dtype)


def l2_norm_stored(x: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Computes what ``l2_norm`` does, with squares, sums and roots stored in the dtype of ``x``.

    Source: transformers' Qwen3-Next writes it so.
    """
    return x * torch.rsqrt((x * x).sum(dim=-1, keepdim=True) + eps)
