"""Rotary position embedding: every pair of channels is turned by the angle of its position.

Legend: B batch, T tokens, H heads, R rotated channels.

Source: Su et al., "RoFormer" (2021), section 3.2.2, equation 34 (interleaved pairs); the half-split pairing is that of
GPT-NeoX and Llama in transformers.
"""

from enum import StrEnum
from typing import Literal

import torch
from torch import Tensor

from reference.checks import require_floats, require_shape

__all__ = ["RopeStyle", "rope"]


class RopeStyle(StrEnum):
    """Which channels make a pair; the values may be given as plain strings wherever a style is asked for."""

    HALF = "half"
    """Pairs ``(i, i + R/2)``."""

    INTERLEAVED = "interleaved"
    """Pairs ``(2i, 2i + 1)``."""

    @classmethod
    def _missing_(cls, value: object) -> "RopeStyle":
        raise ValueError(f"style: got {value!r}, expected one of {', '.join(cls)}")


def rope(x: Tensor, cos: Tensor, sin: Tensor, *, style: RopeStyle | Literal["half", "interleaved"]) -> Tensor:
    """Returns ``x * cos + rotate(x) * sin``.

    Definition:
        ``rotate`` turns every pair ``(a, b)`` into ``(-b, a)``. With the tables of ``rope_tables`` the pair
        ``(a, b)`` becomes ``(a cos - b sin, b cos + a sin)``, in the places where it stood.

    Conventions:
        All R channels are rotated; a caller that rotates only some passes those. The tables may hold anything: the two
        channels of a pair may have different cosines.

    Args:
        x: ``(B, T, H, R)``, R even.
        cos: ``(B, T, R)``, shared by all heads, of the dtype of x.
        sin: like cos.
        style: which channels make a pair.

    Returns:
        Shape and dtype of x.

    Raises:
        TypeError: an argument is no floating-point tensor, or the dtypes differ.
        ValueError: the shapes or devices disagree, R is odd, or the style is unknown.
    """
    style = RopeStyle(style)
    require_floats(x=x, cos=cos, sin=sin)
    require_shape("x", x, B=None, T=None, H=None, R=None)
    B, T, _, R = x.shape
    if R % 2:
        raise ValueError(f"x: got {R} channels to rotate, expected an even number")
    require_shape("cos", cos, B=B, T=T, R=R)
    require_shape("sin", sin, B=B, T=T, R=R)
    return x * cos.unsqueeze(2) + _rotate(x, style) * sin.unsqueeze(2)


def _rotate(x: Tensor, style: RopeStyle) -> Tensor:
    if style is RopeStyle.HALF:
        a, b = x.chunk(2, -1)
        return torch.cat((-b, a), -1)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((-b, a), -1).flatten(-2)
