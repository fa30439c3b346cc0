"""RMSNorm over the last axis.

Source: Zhang and Sennrich, "Root Mean Square Layer Normalization" (2019), equation 4; the zero-centred weight is that
of Gemma and Qwen3-Next.
"""

from torch import Tensor

from reference.checks import require_floats, require_positive, require_shape

__all__ = ["rms_norm"]


def rms_norm(x: Tensor, weight: Tensor, *, eps: float, zero_centered: bool = False) -> Tensor:
    """Returns ``x / sqrt(mean(x^2) + eps) * w``, the mean over the last axis.

    Definition:
        ``w = weight``, or ``1 + weight`` if ``zero_centered``.

    Conventions:
        eps stands inside the root, so a zero row gives 0 and has the finite gradient ``w / sqrt(eps)``.

    Args:
        x: ``(..., C)``.
        weight: ``(C,)``, of the dtype of x.
        eps: positive number.
        zero_centered: whether the weight is stored as its distance from 1.

    Returns:
        Shape and dtype of x.

    Raises:
        TypeError: an argument is no floating-point tensor, or the dtypes differ.
        ValueError: the shapes or devices disagree, or eps is not positive.
    """
    require_floats(x=x, weight=weight)
    if x.dim() == 0:
        raise ValueError("x: got shape (), expected (..., C)")
    require_shape("weight", weight, C=x.shape[-1])
    require_positive("eps", eps)
    w = 1 + weight if zero_centered else weight
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * w
