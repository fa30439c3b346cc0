"""RMSNorm whose every step can be replaced: what the faults of norms are seeded into.

Forward ``y = x r w`` with ``r = 1 / sqrt(mean(x^2) + eps)``; backward, with ``g = dy w`` and rows ``n = x r``,

    dx = r (g - n mean(g n))      dw = sum over rows of dy n,

where every one of some programs sums its share of the rows. Letters: C channels.
"""

from typing import Any

import torch
from torch import Tensor

__all__ = ["Norm"]


class Norm:
    """The healthy norm; a faulty one overrides a step."""

    def __init__(self, programs: int = 4) -> None:
        """Makes the norm.

        Args:
            programs: how many share the rows of the gradient of the weight.
        """
        self.programs = programs

    def rms_norm(self, x: Tensor, weight: Tensor, *, eps: float, zero_centered: bool = False) -> Tensor:
        """Returns ``rms_norm``; the call is that of the operation."""
        gain = weight.float() + 1 if zero_centered else weight.float()
        return _Function.apply(x, gain, eps, self)  # type: ignore[no-any-return,no-untyped-call]  # autograd.Function is untyped

    def gated_rms_norm(
        self, x: Tensor, gate: Tensor, weight: Tensor, *, eps: float, zero_centered: bool = False
    ) -> Tensor:
        """Returns ``gated_rms_norm``; the call is that of the operation."""
        rows = self.rms_norm(x.float(), weight, eps=eps, zero_centered=zero_centered)
        return (torch.nn.functional.silu(gate.float()) * rows).to(x.dtype)

    def mean(self, terms: Tensor) -> Tensor:
        """Returns the mean of every row, as a column."""
        return terms.mean(-1, keepdim=True)

    def mean_again(self, terms: Tensor) -> Tensor:
        """Returns the same in the backward pass."""
        return terms.mean(-1, keepdim=True)

    def reciprocal(self, mean: Tensor) -> Tensor:
        """Returns the reciprocal root of the mean square."""
        return mean.rsqrt()

    def stored(self, out: Tensor) -> Tensor:
        """Returns the result as it is left in memory."""
        return out

    def stored_gradient(self, grad: Tensor, out_grad: Tensor) -> Tensor:  # noqa: ARG002 - a fault reads it
        """Returns the gradient of the input as it is left in memory."""
        return grad

    def slots(self, channels: int) -> Tensor:
        """Returns a row of memory per program."""
        return torch.zeros(self.programs, channels)

    def share(self, terms: Tensor) -> Tensor:
        """Returns the sum of a program's rows (rows, C)."""
        return terms.sum(0)

    def weight_gradient(self, terms: Tensor) -> Tensor:
        """Returns the sum over rows (rows, C); programs that have none write nothing."""
        each = -(-terms.shape[0] // self.programs)
        slots = self.slots(terms.shape[1])
        for program, rows in enumerate(torch.split(terms, each)):
            slots[program] = self.share(rows)
        return slots.sum(0)


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float, norm: Norm) -> Tensor:
        wide = x.float()
        reciprocal = norm.reciprocal(norm.mean(wide.square()) + eps)
        ctx.save_for_backward(x, gain, reciprocal)
        ctx.norm = norm
        return norm.stored((wide * reciprocal * gain).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, reciprocal = ctx.saved_tensors
        norm: Norm = ctx.norm
        rows, wide = x.float() * reciprocal, grads[0].float()
        scaled = wide * gain
        grad = reciprocal * (scaled - rows * norm.mean_again(scaled * rows))
        weight = norm.weight_gradient((wide * rows).flatten(0, -2))
        return norm.stored_gradient(grad.to(x.dtype), grads[0]), weight, None, None
