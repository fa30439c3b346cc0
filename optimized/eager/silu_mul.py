"""SiLU gating in plain torch."""

from torch import Tensor
from torch.nn import functional

from optimized.eager.arithmetic import widened

__all__ = ["silu_mul", "silu_mul_stored"]


def silu_mul(gate: Tensor, x: Tensor) -> Tensor:
    """Computes ``silu(gate) * x`` with ``silu(g) = g / (1 + exp(-g))`` in float32 and rounds once.

    Args:
        gate: any shape, floating point; large values of either sign are legal.
        x: the shape of ``gate``.

    Returns:
        The shape of ``x`` and the dtype of ``x``.

    Raises:
        ValueError: the shapes differ.

    Source: Shazeer, "GLU Variants Improve Transformer", equation 6.
    """
    return silu_mul_stored(widened(gate), widened(x)).to(x.dtype)


def silu_mul_stored(gate: Tensor, x: Tensor) -> Tensor:
    """Computes what ``silu_mul`` does, with ``silu(gate)`` stored in the dtype of ``gate``."""
    if gate.shape != x.shape:
        raise ValueError(f"x: got shape {tuple(x.shape)}, expected the shape of gate, {tuple(gate.shape)}")
    return functional.silu(gate) * x
