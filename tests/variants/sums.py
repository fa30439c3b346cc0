"""Orders and ways of summation over the last axis, which stays with length 1; all in float32."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["ORDERS", "Sum", "compensated", "fused", "in_lanes", "interleaved", "pairwise", "reversed_terms", "wide"]

Sum = Callable[[Tensor], Tensor]
"""Sums the last axis, which stays with length 1."""


def reversed_terms(x: Tensor) -> Tensor:
    """Adds one term after the other, the last one first."""
    return in_order(x.flip(-1))


def in_order(x: Tensor) -> Tensor:
    """Adds one term after the other."""
    total = torch.zeros_like(x[..., :1])
    for index in range(x.shape[-1]):
        total = total + x[..., index : index + 1]
    return total


def pairwise(x: Tensor) -> Tensor:
    """Adds neighbours, then sums of neighbours, and so on."""
    while x.shape[-1] > 1:
        x = functional.pad(x, (0, x.shape[-1] % 2))
        x = x[..., ::2] + x[..., 1::2]
    return x


def in_lanes(x: Tensor) -> Tensor:
    """Adds tiles of 32 terms lane by lane, then the lanes, as a warp does."""
    tiles = torch.unflatten(functional.pad(x, (0, -x.shape[-1] % 32)), -1, (-1, 32))
    total = torch.zeros_like(tiles[..., 0, :])
    for tile in tiles.unbind(-2):
        total = total + tile
    return pairwise(total)


def interleaved(x: Tensor) -> Tensor:
    """Adds every fourth term to each of four accumulators, then those."""
    four = torch.unflatten(functional.pad(x, (0, -x.shape[-1] % 4)), -1, (-1, 4))
    return in_order(in_order(four.mT).mT.squeeze(-2))


def compensated(x: Tensor) -> Tensor:
    """Adds one term after the other and keeps what each addition loses (Kahan 1965)."""
    total, lost = torch.zeros_like(x[..., :1]), torch.zeros_like(x[..., :1])
    for index in range(x.shape[-1]):
        term = x[..., index : index + 1] - lost
        grown = total + term
        lost = (grown - total) - term
        total = grown
    return total


def fused(x: Tensor) -> Tensor:
    """Adds in torch's own order."""
    return x.sum(-1, keepdim=True)


def running_mean(x: Tensor) -> Tensor:
    """Updates a mean term by term, as Welford (1962) does, and multiplies it by the number of terms."""
    mean = torch.zeros_like(x[..., :1])
    for index in range(x.shape[-1]):
        mean = mean + (x[..., index : index + 1] - mean) / (index + 1)
    return mean * x.shape[-1]


def wide(x: Tensor) -> Tensor:
    """Adds in float64 and rounds once."""
    return x.double().sum(-1, keepdim=True).float()


ORDERS: dict[str, Sum] = {
    "in-order": in_order,
    "reversed": reversed_terms,
    "pairwise": pairwise,
    "lanes": in_lanes,
    "interleaved": interleaved,
    "kahan": compensated,
    "running-mean": running_mean,
    "float64": wide,
    "torch": fused,
}
