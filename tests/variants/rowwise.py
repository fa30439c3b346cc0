"""Legal executions of norms, RoPE, convolution and gates: other orders of summation, other forms of one formula.

All of them compute in float32 and round once. Letters: B batch, T tokens, H heads, C channels, J taps, R rotated
channels.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "decay_by_logaddexp",
    "in_lanes",
    "log_sigmoid_by_logaddexp",
    "make_gated_rms_norm",
    "make_l2_norm",
    "make_rms_norm",
    "pairwise",
    "reversed_terms",
    "rope_by_pairs",
    "short_conv_reversed",
    "short_conv_unfolded",
    "silu_mul_base_two",
    "silu_mul_by_halves",
]

Sum = Callable[[Tensor], Tensor]
"""Sums the last axis, which stays with length 1."""


def reversed_terms(x: Tensor) -> Tensor:
    """Adds one term after the other, the last one first."""
    total = torch.zeros_like(x[..., :1])
    for index in reversed(range(x.shape[-1])):
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


def make_rms_norm(summed: Sum, *, divides: bool = False) -> Callable[..., Tensor]:
    """Returns ``rms_norm`` with one order of summation and a backward pass of its own.

    Args:
        summed: the order.
        divides: whether it divides by the number of channels and by a root, instead of multiplying by reciprocals.
    """

    def rms_norm(x: Tensor, weight: Tensor, *, eps: float, zero_centered: bool = False) -> Tensor:
        gain = weight.float() + 1 if zero_centered else weight.float()
        normalised = _Normalised.apply(x.float(), x.shape[-1], eps, summed, divides)  # type: ignore[no-untyped-call]  # autograd.Function is untyped
        result: Tensor = _Gain.apply(normalised, gain, summed)  # type: ignore[no-untyped-call]  # autograd.Function is untyped
        return result.to(x.dtype)

    return rms_norm


def make_gated_rms_norm(
    norm: Callable[..., Tensor], gated: Callable[[Tensor, Tensor], Tensor]
) -> Callable[..., Tensor]:
    """Returns ``gated_rms_norm`` made of a norm and a gate of this file, with nothing rounded between them."""

    def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, *, eps: float, zero_centered: bool = False) -> Tensor:
        rows = norm(x.float(), weight, eps=eps, zero_centered=zero_centered)
        return gated(gate.float(), rows).to(x.dtype)

    return gated_rms_norm


def make_l2_norm(summed: Sum) -> Callable[..., Tensor]:
    """Returns ``l2_norm`` with one order of summation and a backward pass of its own."""

    def l2_norm(x: Tensor, *, eps: float = 1e-6) -> Tensor:
        result: Tensor = _Normalised.apply(x.float(), 1, eps, summed, True)  # type: ignore[no-untyped-call]  # noqa: FBT003 - autograd.Function is untyped and takes its inputs by position
        return result.to(x.dtype)

    return l2_norm


class _Normalised(torch.autograd.Function):
    """``y = x / sqrt(sum(x^2) / count + eps)``; backwards ``(g - y sum(g y) / count) / root``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int, eps: float, summed: Sum, divides: bool) -> Tensor:  # noqa: FBT001 - autograd takes its inputs by position
        total = summed(x * x)
        mean = (total / count if divides else total * (1 / count)) + eps
        inverse = 1 / mean.sqrt() if divides else mean.rsqrt()
        result = x / mean.sqrt() if divides else x * inverse
        ctx.save_for_backward(result, inverse)
        ctx.count, ctx.summed = count, summed
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        result, inverse = ctx.saved_tensors
        along = ctx.summed(grads[0] * result) / ctx.count
        return (grads[0] - result * along) * inverse, None, None, None, None


class _Gain(torch.autograd.Function):
    """Rows times a weight, whose gradient is summed over rows in one order."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, gain: Tensor, summed: Sum) -> Tensor:
        ctx.save_for_backward(rows, gain)
        ctx.summed = summed
        return rows * gain

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        rows, gain = ctx.saved_tensors
        terms = (grads[0] * rows).flatten(0, -2)
        return grads[0] * gain, ctx.summed(terms.mT).squeeze(-1), None


def rope_by_pairs(x: Tensor, cos: Tensor, sin: Tensor, *, style: str) -> Tensor:
    """Returns ``rope`` as plane rotations, one fused product and sum per channel, the sine's product first."""
    size, axis = ((2, -1), -2) if style == "half" else ((-1, 2), -1)
    first, second = torch.unflatten(x.float(), -1, size).unbind(axis)
    (cos_first, cos_second), (sin_first, sin_second) = (
        torch.unflatten(table.float().unsqueeze(2), -1, size).unbind(axis) for table in (cos, sin)
    )
    left = torch.addcmul(-(second * sin_first), first, cos_first)
    right = torch.addcmul(first * sin_second, second, cos_second)
    return torch.stack((left, right), axis).flatten(-2).to(x.dtype)


def short_conv_reversed(x: Tensor, weight: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Returns ``short_conv`` with the current token's tap first."""
    taps, tokens = weight.shape[1], x.shape[1]
    padded = functional.pad(_masked(x, mask), (0, 0, taps - 1, 0))
    total = torch.zeros_like(padded[:, :tokens])
    for tap in reversed(range(taps)):
        total = total + padded[:, tap : tap + tokens] * weight.float()[:, tap]
    return (total * _logistic(total)).to(x.dtype)


def short_conv_unfolded(x: Tensor, weight: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Returns ``short_conv`` as one product of windows and taps."""
    windows = functional.pad(_masked(x, mask), (0, 0, weight.shape[1] - 1, 0)).unfold(1, weight.shape[1], 1)
    total = torch.einsum("btcj,cj->btc", windows, weight.float())
    return (total * torch.sigmoid(total)).to(x.dtype)


def silu_mul_by_halves(gate: Tensor, x: Tensor) -> Tensor:
    """Returns ``silu_mul`` with the exponential of ``-|gate|``, which never overflows."""
    wide = gate.float()
    return (wide * _logistic(wide) * x.float()).to(x.dtype)


def silu_mul_base_two(gate: Tensor, x: Tensor) -> Tensor:
    """Returns ``silu_mul`` with a power of two; rounding ``gate log2(e)`` is an error of up to ``|gate| 2^-24``."""
    wide = gate.float()
    return (wide * _logistic(wide, is_base_two=True) * x.float()).to(x.dtype)


def decay_by_logaddexp(x: Tensor, a_log: Tensor, dt_bias: Tensor) -> Tensor:
    """Returns ``mamba_decay`` with softplus as ``log(exp(x) + exp(0))``."""
    step = x.float() + dt_bias.float()
    return -(a_log.float().exp() * torch.logaddexp(step, torch.zeros_like(step)))


def log_sigmoid_by_logaddexp(x: Tensor, *, normalizer: float) -> Tensor:
    """Returns ``log_sigmoid_decay`` as ``-log(1 + exp(-x)) / normalizer``."""
    return torch.logaddexp(-x.float(), torch.zeros(())) * (-1 / normalizer)


def _masked(x: Tensor, mask: Tensor | None) -> Tensor:
    return x.float() if mask is None else x.float() * mask.unsqueeze(-1)


def _logistic(x: Tensor, *, is_base_two: bool = False) -> Tensor:
    """Returns ``1 / (1 + exp(-x))`` of ``exp(-|x|)``."""
    small = torch.exp2(x.abs() * -math.log2(math.e)) if is_base_two else torch.exp(-x.abs())
    return torch.where(x >= 0, 1 / (1 + small), small / (1 + small))
