"""Mamba's decay gate in plain torch. Letters: B batch, T tokens, H heads."""

from torch import Tensor
from torch.nn import functional

from optimized.eager.arithmetic import widened
from optimized.eager.checks import check_shape

__all__ = ["mamba_decay"]


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
    # log(sigmoid(-z)) is -softplus(z) without torch's threshold, which is off by 2e-9 at its default; and torch.compile
    # knows the strides of its gradient.
    return a_log.to(wide.dtype).exp() * functional.logsigmoid(-(wide + dt_bias.to(wide.dtype)))
