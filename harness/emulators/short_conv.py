"""The short causal convolution as kernels do it: a sum over the taps, then SiLU.

Letters: ``K`` samples, ``B`` batch, ``T`` tokens, ``C`` channels, ``J`` taps.

Rounding points: ``masked`` (only if the mask is not boolean), ``sum`` (over the taps; stored by eager implementations,
its gradient too), ``x.grad``, ``weight.grad`` (sum over all tokens), and those of ``parts.silu``.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from harness.emulators.arithmetic import Arithmetic, shared
from harness.emulators.parts import fused, silu

__all__ = ["emulate"]


def emulate(arithmetic: Arithmetic, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:  # noqa: ARG001 - every emulator has this call
    """Returns ``{"out": silu(sum_j weight[c, j] x[t - (J - 1) + j, c])}`` before the final store, differentiable.

    Args:
        arithmetic: the recipe and what happens at its rounding points.
        tensors: ``x`` (B, T, C) and ``weight`` (C, J) behind the sample axis; ``mask`` (B, T) without it, or None.
        options: none.
    """
    x, mask = tensors["x"], tensors.get("mask")
    if mask is not None:
        column = mask.reshape(-1, *x.shape[1:3], 1)
        if mask.is_floating_point():
            x = arithmetic.keep("masked", x * column)
        else:
            x = torch.where(column != 0, x, torch.zeros((), dtype=x.dtype, device=x.device))
    total = _Taps.apply(x, tensors["weight"], arithmetic)  # type: ignore[no-untyped-call]  # autograd.Function is untyped
    # The result of SiLU is the output, which the judge rounds: only its own arithmetic belongs here.
    return {"out": silu(fused(arithmetic), "silu", total)}


class _Taps(torch.autograd.Function):
    """The sum over the taps; backwards the taps run the other way."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, weight: Tensor, arithmetic: Arithmetic) -> Tensor:
        x, weight = shared(x), shared(weight)
        ctx.save_for_backward(x, weight)
        ctx.arithmetic = arithmetic  # type: ignore[attr-defined]  # contexts take any attribute
        taps = weight.shape[-1]
        padded = pad(x, (0, 0, taps - 1, 0))
        total = _tapped(arithmetic, "sum", padded, weight, fmt=arithmetic.recipe.accumulator)
        return arithmetic.round_intermediate("sum", total)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]  # torch's own attribute
        arithmetic: Arithmetic = ctx.arithmetic  # type: ignore[attr-defined]  # set in forward
        grad = arithmetic.round_intermediate("sum.grad", grads[0])
        taps, tokens = weight.shape[-1], x.shape[2]
        # An eager backward pass scatters the taps one by one into the stored gradient.
        grad_x = _tapped(
            arithmetic, "x.grad", pad(grad, (0, 0, 0, taps - 1)), weight.flip(-1), fmt=arithmetic.intermediates
        )
        padded = pad(x, (0, 0, taps - 1, 0))
        columns = [
            arithmetic.total("weight.grad", grad * padded[:, :, tap : tap + tokens], (1, 2)) for tap in range(taps)
        ]
        return arithmetic.all_samples(grad_x), arithmetic.all_samples(torch.stack(columns, -1)), None


def _tapped(arithmetic: Arithmetic, point: str, padded: Tensor, weight: Tensor, *, fmt: str) -> Tensor:
    """Returns ``sum_j weight[c, j] padded[t + j, c]``, added up in the format."""
    taps = weight.shape[-1]
    tokens = padded.shape[2] - (taps - 1)

    def summed(values: Tensor, factors: Tensor) -> Tensor:
        result = values[:, :, :tokens] * factors[:, None, None, :, 0]
        for tap in range(1, taps):
            result = torch.addcmul(result, values[:, :, tap : tap + tokens], factors[:, None, None, :, tap])
        return result

    value = summed(padded, weight)

    def gauge() -> Tensor:
        squares = summed(padded[:1] ** 2, weight[:1] ** 2)
        return (value * value).mul_(taps / 3).add_(squares, alpha=taps / 2).sqrt_()

    return arithmetic.rounding.accumulate(point, value, gauge, fmt)
