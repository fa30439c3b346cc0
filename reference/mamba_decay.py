"""The input-dependent log decay of Mamba-2, used as decay gate by Gated DeltaNet.

Legend: B batch, T tokens, H value heads.

Source: Gu and Dao, "Mamba" (2023), algorithm 2 and section 3.6 (softplus of the step, negative real A); Yang, Kautz and
Hatamizadeh, "Gated Delta Networks" (2024), section 3.4.
"""

import torch
from torch import Tensor

from reference.checks import require_floats, require_shape

__all__ = ["mamba_decay"]


def mamba_decay(x: Tensor, a_log: Tensor, dt_bias: Tensor) -> Tensor:
    """Returns the log decay ``-exp(a_log) * softplus(x + dt_bias)``, never positive.

    Numerics:
        ``softplus(z) = max(z, 0) + log1p(exp(-|z|))``: no overflow for large z and full relative accuracy where it is
        tiny (z = -40: 4.2e-18, where ``log(1 + exp(z))`` gives 0). Its gradient ``1 / (1 + exp(-z))`` is as accurate.

    Args:
        x: ``(B, T, H)``.
        a_log: ``(H,)``, of the dtype of x.
        dt_bias: ``(H,)``, of the dtype of x.

    Returns:
        Shape and dtype of x.

    Raises:
        TypeError: an argument is no floating-point tensor, or the dtypes differ.
        ValueError: the shapes or devices disagree.
    """
    require_floats(x=x, a_log=a_log, dt_bias=dt_bias)
    require_shape("x", x, B=None, T=None, H=None)
    require_shape("a_log", a_log, H=x.shape[2])
    require_shape("dt_bias", dt_bias, H=x.shape[2])
    softplus = torch.logaddexp(x + dt_bias, x.new_zeros(()))
    return -a_log.exp() * softplus
