"""Legal executions of RMSNorm, gated RMSNorm and L2 norm: other orders of summation, other forms of one formula.

All of them compute in float32 and round once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.variants.sums import Sum, fused

__all__ = ["Norm", "make_gated_rms_norm", "make_l2_norm", "make_rms_norm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """One way to normalise rows.

    Attributes:
        summed: order of the sum of squares, and of the sums of the backward pass.
        divides: whether it divides by the number of channels and by a root, instead of multiplying by reciprocals.
        is_scaled: whether rows are divided by their largest magnitude before they are squared.
        gain: whether the weight is applied ``after`` the reciprocal root, ``before`` it, or first ``to the root``.
        by_autograd: whether autograd differentiates the formula, instead of a backward pass of its own.
    """

    summed: Sum = fused
    divides: bool = False
    is_scaled: bool = False
    gain: str = "after"
    by_autograd: bool = False

    def inverse_root(self, x: Tensor, count: int, eps: float) -> Tensor:
        """Returns ``1 / sqrt(sum(x^2) / count + eps)``."""
        if self.is_scaled:
            size = x.detach().abs().amax(-1, keepdim=True).clamp_min(2.0**-40)
            total = self.summed((x / size).square())
            return (total / count + eps / size.square()).rsqrt() / size
        total = self.summed(x * x)
        mean = (total / count if self.divides else total * (1 / count)) + eps
        return 1 / mean.sqrt() if self.divides else mean.rsqrt()


def make_rms_norm(norm: Norm) -> Callable[..., Tensor]:
    """Returns ``rms_norm`` done in one way."""

    def rms_norm(x: Tensor, weight: Tensor, *, eps: float, zero_centered: bool = False) -> Tensor:
        gain, wide = weight.float() + 1 if zero_centered else weight.float(), x.float()
        if norm.by_autograd:
            return _gained(wide, norm.inverse_root(wide, x.shape[-1], eps), gain, norm.gain).to(x.dtype)
        result: Tensor = _Rows.apply(wide, gain, x.shape[-1], eps, norm)  # type: ignore[no-untyped-call]  # autograd.Function is untyped
        return result.to(x.dtype)

    return rms_norm


def make_gated_rms_norm(
    norm: Callable[..., Tensor], gated: Callable[[Tensor, Tensor], Tensor]
) -> Callable[..., Tensor]:
    """Returns ``gated_rms_norm`` made of a norm and a gate, with nothing rounded between them."""

    def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, *, eps: float, zero_centered: bool = False) -> Tensor:
        rows = norm(x.float(), weight, eps=eps, zero_centered=zero_centered)
        return gated(gate.float(), rows).to(x.dtype)

    return gated_rms_norm


def make_l2_norm(norm: Norm) -> Callable[..., Tensor]:
    """Returns ``l2_norm`` done in one way."""

    def l2_norm(x: Tensor, *, eps: float = 1e-6) -> Tensor:
        wide = x.float()
        if norm.by_autograd:
            return (wide * norm.inverse_root(wide, 1, eps)).to(x.dtype)
        result: Tensor = _Rows.apply(wide, None, 1, eps, norm)  # type: ignore[no-untyped-call]  # autograd.Function is untyped
        return result.to(x.dtype)

    return l2_norm


def _gained(x: Tensor, inverse: Tensor, gain: Tensor, order: str) -> Tensor:
    if order == "after":
        return x * inverse * gain
    return x * gain * inverse if order == "before" else x * (inverse * gain)


class _Rows(torch.autograd.Function):
    """``y = x / sqrt(sum(x^2) / count + eps)`` times a gain; backwards ``(g - y sum(g y) / count) / root``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor | None, count: int, eps: float, norm: Norm) -> Tensor:
        inverse = norm.inverse_root(x, count, eps)
        ctx.save_for_backward(x, gain, inverse)
        ctx.count, ctx.norm = count, norm
        return x * inverse if gain is None else _gained(x, inverse, gain, norm.gain)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, inverse = ctx.saved_tensors
        rows = x * inverse
        pulled = grads[0] if gain is None else grads[0] * gain
        along = ctx.norm.summed(pulled * rows) / ctx.count
        grad_gain = None
        if gain is not None:
            grad_gain = ctx.norm.summed((grads[0] * rows).flatten(0, -2).mT).squeeze(-1)
        return (pulled - rows * along) * inverse, grad_gain, None, None, None
