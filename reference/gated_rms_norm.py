"""RMSNorm whose result a SiLU gate multiplies, as after the delta rule of Gated DeltaNet.

Source: Yang et al., "Gated Delta Networks" (2024), section 3.4 and figure 1 (output norm and output gate); the order is
that of flash-linear-attention's ``FusedRMSNormGated`` and of Mamba-2's ``RMSNormGated`` with ``norm_before_gate``.
"""

from torch import Tensor

from reference.checks import require_floats, require_shape
from reference.rms_norm import rms_norm
from reference.silu_mul import silu_mul

__all__ = ["gated_rms_norm"]


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, *, eps: float, zero_centered: bool = False) -> Tensor:
    """Returns ``silu(gate) * x / sqrt(mean(x^2) + eps) * w``, the mean over the last axis.

    Definition:
        ``silu_mul(gate, rms_norm(x, weight))``: ``w = weight``, or ``1 + weight`` if ``zero_centered``, and
        ``silu(gate) = gate / (1 + exp(-gate))``.

    Conventions:
        The norm comes before the gate: the mean is that of x alone. eps stands inside the root, so a zero row gives 0,
        with the finite gradients of ``rms_norm``. Large ``|gate|`` gives no NaN.

    Args:
        x: ``(..., C)``.
        gate: shape and dtype of x.
        weight: ``(C,)``, of the dtype of x.
        eps: positive number.
        zero_centered: whether the weight is stored as its distance from 1.

    Returns:
        Shape and dtype of x.

    Raises:
        TypeError: an argument is no floating-point tensor, or the dtypes differ.
        ValueError: the shapes or devices disagree, or eps is not positive.
    """
    require_floats(x=x, gate=gate, weight=weight)
    require_shape("gate", gate, **{f"axis_{i}": length for i, length in enumerate(x.shape)})
    return silu_mul(gate, rms_norm(x, weight, eps=eps, zero_centered=zero_centered))
