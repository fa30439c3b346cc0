"""SiLU gating: ``silu(gate) * x``.

Source: Hendrycks and Gimpel, "Gaussian Error Linear Units" (2016), section 4 (SiLU); Shazeer, "GLU Variants Improve
Transformer" (2020), equation 6 (the gate).
"""

from torch import Tensor

from reference.checks import require_floats, require_shape
from reference.sigmoid import sigmoid

__all__ = ["silu_mul"]


def silu_mul(gate: Tensor, x: Tensor) -> Tensor:
    """Returns ``gate / (1 + exp(-gate)) * x``.

    Conventions:
        Large ``|gate|`` gives ``gate * x`` or 0, never NaN, and so do the gradients.

    Numerics:
        Values have full relative accuracy down to ``gate = -709``; below, ``exp(-gate)`` overflows and the result is 0
        where the truth is below 1e-305. A gradient is accurate to a few units of ``eps * (1 + |gate|)``.

    Args:
        gate: any shape.
        x: shape and dtype of gate.

    Returns:
        Shape and dtype of gate.

    Raises:
        TypeError: an argument is no floating-point tensor, or the dtypes differ.
        ValueError: the shapes or devices differ.
    """
    require_floats(gate=gate, x=x)
    require_shape("x", x, **{f"axis_{i}": length for i, length in enumerate(gate.shape)})
    return gate * sigmoid(gate) * x
