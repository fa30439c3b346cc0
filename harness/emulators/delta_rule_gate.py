"""Gate of the chunked gated delta rule: sums of log decays, their exponentials, and gradients of both.

Letters: ``K`` samples, ``B`` batch, ``T`` tokens, ``H`` value heads, ``D`` query/key width, ``C`` tokens of a chunk.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from harness.emulators.arithmetic import Arithmetic, shared
from harness.emulators.delta_rule_points import Context, apply
from harness.emulators.rounding import unit

__all__ = ["MAX_CHUNK", "decays", "on_the_sides", "summed_gate"]

MAX_CHUNK = 128
"""Longest chunk that a kernel goes through at once."""

_USUAL_CHUNK = 64
"""Longest chunk of most kernels. Samples of a longer tile stand for those of which nobody knows where chunks begin."""


def summed_gate(arithmetic: Arithmetic, point: str, log_decay: Tensor) -> Tensor:
    """Returns log decays ``(K, B, T, H)`` whose sums err as sums in the accumulator's format do.

    Kernels sum the gate from the start of a chunk and take differences. Every sum of the longest usual chunk is
    rounded, and every token's exponential may be off by ``exp_error``, that of a gate of 0 excepted. The gradient
    is a sum from the chunk's end, with one rounding per token. A kernel with another length starts elsewhere: samples
    of a tile beyond the usual take the longest chunk's length of tokens before each token (after it, backward) for its
    sum.
    """
    return apply(_SummedGate, log_decay, arithmetic, point)


def decays(arithmetic: Arithmetic, point: str, exponents: Tensor, *, terms: int) -> Tensor:
    """Returns ``exp`` of sums of up to ``terms`` log decays.

    Kernels take a difference of two sums or add up the tokens of each exponent by themselves. Either rounds every
    exponent on its own, beyond what the sums from a chunk's start share, and an error of an exponent is a relative one
    of the decay: where all that remains has decayed by ``exp(-30)``, it is larger than that of ``exp``.
    """
    return apply(_Decays, exponents, terms, arithmetic, point)


def on_the_sides(
    arithmetic: Arithmetic, point: str, gate: Tensor, query: Tensor, keys: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Returns all of them; the gate's gradient errs as sums over channels do.

    A kernel may multiply queries and keys by their decays instead of their product, so that a gate's gradient is made
    of ``q_i . dq_i`` and ``k_i . dk_i``. For a token that only meets itself these cancel, and their errors do not.

    Args:
        arithmetic: formats and roundings.
        point: name.
        gate: summed log decays ``(K, ..., C, 1)``.
        query: ``(K, ..., C, D)``.
        keys: two uses of the keys, of the same shape.
    """
    gate, query, first, second = _Sides.apply(gate, query, *keys, arithmetic, point)  # type: ignore[no-untyped-call]  # autograd.Function is untyped
    return gate, query, (first, second)


class _SummedGate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, log_decay: Tensor, arithmetic: Arithmetic, point: str) -> Tensor:
        ctx.arithmetic, ctx.point = arithmetic, point
        rounding, accumulator = arithmetic.rounding, arithmetic.recipe.accumulator
        log_decay = shared(log_decay)
        # 1000 is as good as more: exp underflows to 0 far below, and -inf would make NaN of a difference.
        log_decay = log_decay.clamp(min=-1000.0)
        sums = _sums_of_chunks(log_decay, anywhere=_starts_anywhere(arithmetic))
        # A token's decay is seen as the difference of two rounded sums.
        errors = rounding.accumulate(f"{point}.sum", sums, lambda: sums.abs() * math.sqrt(2), accumulator) - sums
        # An error of exp, seen from its argument, is absolute.
        size = (log_decay != 0) * (arithmetic.exp_error / unit(accumulator))
        errors = errors + rounding.accumulate(f"{point}.exp", log_decay, size.clone, accumulator) - log_decay
        return arithmetic.all_samples(log_decay + errors)

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        arithmetic = ctx.arithmetic
        grad = shared(grads[0])

        def gauge() -> Tensor:
            squares = grad.square().flip(2)
            return _sums_of_chunks(squares, anywhere=_starts_anywhere(arithmetic)).flip(2).clamp_min_(0).sqrt_()

        noisy = arithmetic.rounding.accumulate(f"{ctx.point}.grad", grad, gauge, arithmetic.recipe.accumulator)
        return arithmetic.all_samples(noisy), None, None


class _Decays(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, exponents: Tensor, terms: int, arithmetic: Arithmetic, point: str) -> Tensor:
        accumulator = arithmetic.recipe.accumulator
        exponents = shared(exponents)
        value = exponents.exp()

        def gauge() -> Tensor:
            size = exponents.abs().mul_(math.sqrt(1 + terms / 3))
            return size.add_(arithmetic.exp_error / unit(accumulator)).mul_(value)

        value = arithmetic.all_samples(arithmetic.rounding.accumulate(point, value, gauge, accumulator))
        ctx.save_for_backward(value)
        return value

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0] * ctx.saved_tensors[0], None, None, None


def _starts_anywhere(arithmetic: Arithmetic) -> bool:
    """Returns whether the samples stand for kernels of which nobody knows where their chunks begin."""
    return arithmetic.tile > _USUAL_CHUNK


def _sums_of_chunks(x: Tensor, *, anywhere: bool) -> Tensor:
    """Returns the sums of ``(K, B, T, H)`` over tokens, anew in each of the longest usual chunks.

    Args:
        x: what is summed.
        anywhere: whether each token's sum is that of a chunk, of the longest there are, which ends with it.
    """
    tokens = x.shape[2]
    if anywhere:
        sums = x.cumsum(2)
        return sums - functional.pad(sums, (0, 0, MAX_CHUNK, 0))[:, :, :tokens]
    padded = functional.pad(x, (0, 0, 0, -tokens % _USUAL_CHUNK))
    samples, batch, _, heads = padded.shape
    return padded.reshape(samples, batch, -1, _USUAL_CHUNK, heads).cumsum(3).flatten(2, 3)[:, :, :tokens]


class _Sides(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context, gate: Tensor, query: Tensor, key: Tensor, other_key: Tensor, arithmetic: Arithmetic, point: str
    ) -> tuple[Tensor, ...]:
        ctx.arithmetic, ctx.point = arithmetic, point
        ctx.save_for_backward(query, key, other_key)
        return gate.view_as(gate), query.view_as(query), key.view_as(key), other_key.view_as(other_key)

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gate = grads[0]
        for index, (value, grad) in enumerate(zip(ctx.saved_tensors, grads[1:], strict=True)):
            terms = shared(value) * shared(grad)
            total = ctx.arithmetic.total(f"{ctx.point}.{index}.grad", terms, -1, keepdim=True)
            gate = gate + (total - terms.sum(-1, keepdim=True))
        return gate, *grads[1:], None, None
