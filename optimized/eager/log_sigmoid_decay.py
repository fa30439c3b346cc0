"""The log-sigmoid decay gate in plain torch. Letters: B batch, T tokens, H heads."""

from torch import Tensor
from torch.nn import functional

from optimized.eager.arithmetic import widened
from optimized.eager.checks import check_shape

__all__ = ["log_sigmoid_decay"]


def log_sigmoid_decay(x: Tensor, *, normalizer: float) -> Tensor:
    """Computes the log decay ``log(sigmoid(x)) / normalizer``, accurate also where it is tiny.

    Args:
        x: shape (B, T, H).
        normalizer: positive divisor.

    Returns:
        Shape (B, T, H); float64 for float64 ``x``, else float32.

    Raises:
        ValueError: ``x`` has another number of axes, or the normalizer is not positive.

    Source: Yang et al., "Gated Linear Attention Transformers", section 4.4.
    """
    check_shape("x", x, ("B", "T", "H"))
    if not normalizer > 0:
        raise ValueError(f"normalizer: got {normalizer!r}, expected a positive number")
    return functional.logsigmoid(widened(x)) / normalizer
