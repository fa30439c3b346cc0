"""Scaling of the last axis to unit Euclidean length.

Source: the query and key normalisation of Gated DeltaNet (Yang, Kautz and Hatamizadeh, 2024, section 3.4), with the
epsilon of its published implementations.
"""

from torch import Tensor

from reference.checks import require_floats, require_positive

__all__ = ["l2_norm"]


def l2_norm(x: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Returns ``x / sqrt(sum(x^2) + eps)``, the sum over the last axis.

    Conventions:
        eps stands inside the root (not ``max(|x|, eps)`` as in ``torch.nn.functional.normalize``), so a zero row gives
        0 and has the finite gradient ``1 / sqrt(eps)``.

    Args:
        x: ``(..., D)``.
        eps: positive number.

    Returns:
        Shape and dtype of x.

    Raises:
        TypeError: x is no floating-point tensor.
        ValueError: x has no axis, or eps is not positive.
    """
    require_floats(x=x)
    if x.dim() == 0:
        raise ValueError("x: got shape (), expected (..., D)")
    require_positive("eps", eps)
    return x / (x.square().sum(-1, keepdim=True) + eps).sqrt()
