"""Mamba's decay gate in plain torch. Letters: B batch, T tokens, H heads."""

from torch import Tensor
from torch.nn import functional

from optimized.eager.arithmetic import widened
from optimized.eager.checks import check_shape

__all__ = ["mamba_decay"]

_SOFTPLUS_IS_IDENTITY = 50.0
"""Beyond it ``softplus(x) = x`` to float64's last bit; torch's default of 20 is off by 2e-9 there."""


def mamba_decay(x: Tensor, a_log: Tensor, dt_bias: Tensor) -> Tensor:
    """Computes the log decay ``-exp(a_log) * softplus(x + dt_bias)``, accurate also where softplus is tiny.

    Args:
        x: shape (B, T, H).
        a_log: shape (H,).
        dt_bias: shape (H,).

    Returns:
        Shape (B, T, H); float64 for float64 ``x``, else float32.

    Raises:
        ValueError: a shape disagrees.

    Source: Yang et al., "Gated Delta Networks", section 3.4, with the parameterisation of Mamba-2.
    """
    check_shape("x", x, ("B", "T", "H"))
    check_shape("a_log", a_log, (x.shape[-1],))
    check_shape("dt_bias", dt_bias, (x.shape[-1],))
    wide = widened(x)
    step = functional.softplus(wide + dt_bias.to(wide.dtype), threshold=_SOFTPLUS_IS_IDENTITY)
    return -a_log.to(wide.dtype).exp() * step
