"""Rotary position embedding in plain torch. Letters: B batch, T tokens, H heads, R rotated channels."""

import torch
from torch import Tensor

from optimized.eager.arithmetic import widened
from optimized.eager.checks import check_multiple, check_shape

__all__ = ["check_style", "rope", "rope_stored"]


def rope(x: Tensor, cos: Tensor, sin: Tensor, *, style: str) -> Tensor:
    """Computes ``x * cos + rotate(x) * sin`` in float32 and rounds once.

    Args:
        x: shape (B, T, H, R), R even.
        cos: shape (B, T, R), the cosines of the angles, laid out as ``style`` pairs the channels.
        sin: shape (B, T, R).
        style: "half" rotates the pairs (i, i + R/2), "interleaved" the pairs (2i, 2i + 1).

    Returns:
        The shape and dtype of ``x``.

    Raises:
        ValueError: a shape disagrees, R is odd or the style is unknown.

    Source: Su et al., "RoFormer", section 3.4.2.
    """
    return rope_stored(widened(x), widened(cos), widened(sin), style=style).to(x.dtype)


def rope_stored(x: Tensor, cos: Tensor, sin: Tensor, *, style: str) -> Tensor:
    """Computes what ``rope`` does, with tables and both products stored in the dtype of ``x``.

    Source: transformers' ``apply_rotary_pos_emb`` computes so.
    """
    check_shape("x", x, ("B", "T", "H", "R"))
    B, T, _, R = x.shape
    check_multiple("x width", R, 2)
    check_shape("cos", cos, (B, T, R))
    check_shape("sin", sin, (B, T, R))
    check_style(style)
    if style == "half":
        first, second = x.chunk(2, dim=-1)
        rotated = torch.cat((-second, first), dim=-1)
    else:
        rotated = torch.stack((-x[..., 1::2], x[..., 0::2]), dim=-1).flatten(-2)
    return x * cos.to(x.dtype).unsqueeze(2) + rotated * sin.to(x.dtype).unsqueeze(2)


def check_style(style: str) -> None:
    """Refuses an unknown pairing of channels.

    Raises:
        ValueError: ``style`` is neither "half" nor "interleaved".
    """
    if style not in ("half", "interleaved"):
        raise ValueError(f"style: got {style!r}, expected 'half' or 'interleaved'")
