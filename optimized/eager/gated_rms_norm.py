"""RMSNorm with a SiLU gate in plain torch. Letters: C channels."""

from torch import Tensor

from optimized.eager.arithmetic import widened
from optimized.eager.rms_norm import rms_norm, rms_norm_stored
from optimized.eager.silu_mul import silu_mul_stored

__all__ = ["gated_rms_norm", "gated_rms_norm_stored"]


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, *, eps: float, zero_centered: bool = False) -> Tensor:
    """Computes ``silu(gate) * x / sqrt(mean(x^2) + eps) * w`` over the last axis in float32 and rounds once.

    Args:
        x: any shape ending in C, floating point.
        gate: the shape of ``x``; large values of either sign are legal.
        weight: shape (C,); ``w = weight``, or ``1 + weight`` if ``zero_centered``.
        eps: added inside the root; a zero row gives 0.
        zero_centered: whether the weight is stored as its difference from 1.

    Returns:
        The shape and dtype of ``x``.

    Raises:
        ValueError: ``weight`` is not of shape (C,), or ``gate`` not of the shape of ``x``.

    Source: Yang, Kautz and Hatamizadeh, "Gated Delta Networks", section 3.4 (output norm and gate).
    """
    _check_gate(gate, x)
    rows = rms_norm(widened(x), weight, eps=eps, zero_centered=zero_centered)
    return silu_mul_stored(widened(gate), rows).to(x.dtype)


def gated_rms_norm_stored(
    x: Tensor, gate: Tensor, weight: Tensor, *, eps: float, zero_centered: bool = False
) -> Tensor:
    """Computes what ``gated_rms_norm`` does, as a norm and a gate that each store their results in the dtype of ``x``.

    Source: the order of roundings is that of transformers' Qwen3-Next, but for its gate, which is rounded there last.
    """
    _check_gate(gate, x)
    return silu_mul_stored(gate, rms_norm_stored(x, weight, eps=eps, zero_centered=zero_centered))


def _check_gate(gate: Tensor, x: Tensor) -> None:
    if gate.shape != x.shape:
        raise ValueError(f"gate: got shape {tuple(gate.shape)}, expected the shape of x, {tuple(x.shape)}")
