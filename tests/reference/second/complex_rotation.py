"""Rotary embedding as the multiplication of complex numbers."""

import torch
from torch import Tensor

__all__ = ["rotate"]


def rotate(x: Tensor, angles: Tensor, *, style: str) -> Tensor:
    """Turns ``x (B, T, H, R)`` by ``angles (B, T, R/2)``, one angle per pair."""
    turn = torch.exp(1j * angles)[:, :, None]
    half = x.shape[-1] // 2
    if style == "half":
        turned = torch.complex(x[..., :half], x[..., half:]) * turn
        return torch.cat((turned.real, turned.imag), -1)
    turned = torch.complex(x[..., 0::2], x[..., 1::2]) * turn
    return torch.view_as_real(turned).reshape(x.shape)
