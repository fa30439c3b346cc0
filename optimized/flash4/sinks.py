"""Sinks at the ends of their range, where the kernels need help.

The kernels give sinks their exact gradient, ``-sum exp(sink - lse) (delta - lse_gradient)`` with
``delta = <out, out_gradient>``, but for two cases that are repaired here by torch, in one pass over ``lse``.
"""

import math

import torch
from torch import Tensor

__all__ = ["constant_where_absent", "finite_logsumexp"]


def constant_where_absent(sinks: Tensor) -> Tensor:
    """Returns ``sinks`` without a gradient where they are ``-inf``.

    Such a sink is none. In a row without keys the kernels take the whole weight to be the sink's, whatever it is.
    """
    return sinks.masked_fill(sinks == -math.inf, -math.inf)


def finite_logsumexp(lse: Tensor, sinks: Tensor) -> Tensor:
    """Returns ``lse`` with the sink in place of ``inf``.

    The kernels compute ``exp(sink - largest score)`` in float32, which is infinite from 88.7 on; their output is then
    0, as it should be, and so are their gradients. The logsumexp is the sink to within ``exp(-88)``.

    Args:
        lse: ``(..., H, tokens)``.
        sinks: ``(H,)``.
    """
    return torch.where(lse == math.inf, sinks.to(lse.dtype)[:, None], lse)
