"""The arithmetic of one recipe: matrix products, sums, functions and stores that round as the recipe says.

An emulator is written with these operations alone. The first group works on plain values, for the hand-written
backward passes of fused kernels; the second is differentiable, and its backward passes round too: the gradient of a
broadcast is a rounded sum, the gradient of a stored intermediate is stored. Names of backward points end in ``.grad``.

Every tensor is float64, its first axis the sample axis of ``Rounding.samples`` executions; inputs that all samples
share are expanded along it, and matrix products use that to compute once what is shared.

The noise of an accumulated sum of ``n`` terms in any order is modelled by its partial sums: they walk at random for
terms of mixed sign and grow linearly for terms of one sign, so that
``gauge^2 = n/2 * sum(term^2) + n/3 * (sum term)^2`` (Higham, Accuracy and Stability of Numerical Algorithms, 4.2).
Where the terms of one head are positive and those of the next negative, partial sums are larger than the sum: the mean
square of those after each quarter of the terms counts where it is larger than the squared sum.
The errors of the additions walk at random too, with one exception: equal terms err alike at each addition, so that a
sum of ``n`` equal terms is off by up to ``n/2`` units where one of different terms is off by about ``sqrt(n/12)``. Each
term therefore has a direction, and what is added up is directions (``Rounding.accumulate``).
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from harness.emulators.rounding import FORMAT_BITS, Rounding, Signs, unit
from optimized.candidate import Recipe

__all__ = ["Arithmetic", "shared"]


_PIECES = 4
"""Pieces of a sum after which the partial sum is looked at."""


def shared(value: Tensor) -> Tensor:
    """Returns one sample of a tensor that all samples share (stride 0 on the sample axis), else the tensor."""
    return value[:1] if value.dim() and value.stride(0) == 0 else value


def _pieces(value: Tensor, axis: int) -> tuple[Tensor, ...]:
    """Returns the quarters of a tensor along an axis: what a kernel adds up one after the other."""
    return value.tensor_split(max(1, min(_PIECES, value.shape[axis])), axis)


def _gauge(value: Tensor, terms: int, squares: Tensor, pieces: Sequence[Tensor]) -> Tensor:
    """Returns the gauge of sums ``value`` from their squared terms and their pieces, see the module."""
    partial = mean_square = torch.zeros((), dtype=torch.float64)
    for piece in pieces:
        partial = partial + piece
        mean_square = mean_square + partial.square() / len(pieces)
    return torch.maximum(value.square(), mean_square).mul_(terms / 3).add_(squares, alpha=terms / 2).sqrt_()


class _Point(torch.autograd.Function):
    """A value that is changed on its way forward, and its gradient on its way back."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        value: Tensor,
        forward: Callable[[Tensor], Tensor],
        backward: Callable[[Tensor], Tensor],
    ) -> Tensor:
        ctx.change = backward  # type: ignore[attr-defined]  # autograd contexts take any attribute
        return forward(value)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.change(grads[0]), None, None  # type: ignore[attr-defined]  # set in forward


class Arithmetic:
    """Operations that round as a recipe allows.

    Args:
        recipe: the formats.
        rounding: what happens at each point.
        tile: length of the pieces in which a kernel goes through keys, tokens or chunks; one of the free orders.
    """

    def __init__(self, recipe: Recipe, rounding: Rounding, *, tile: int = 64) -> None:
        self.recipe = recipe
        self.rounding = rounding
        self.tile = tile
        self.samples = rounding.samples
        self.intermediates = recipe.intermediates or recipe.accumulator
        self.weights_format = recipe.weights or recipe.operand
        self.exp_error = recipe.exp_error if recipe.exp_error is not None else 4 * unit(recipe.accumulator)

    @property
    def is_eager(self) -> bool:
        """Whether every intermediate is stored in a format narrower than the accumulator."""
        return self.intermediates != self.recipe.accumulator

    # -- plain values: used inside hand-written backward passes ----------------------------------------------------

    def round_operand(self, point: str, value: Tensor) -> Tensor:
        """Returns the value as an operand of a matrix product; a number of the operand's format stays as it is."""
        if self.recipe.operand == self.recipe.accumulator and not self.is_eager:
            return value  # it was rounded when it was computed
        return self.rounding.round(point, shared(value), self.recipe.operand, keeps_exact=True)

    def round_intermediate(self, point: str, value: Tensor) -> Tensor:
        """Returns the value as an intermediate; accumulated sums are in the accumulator's format already."""
        if not self.is_eager:
            return self.all_samples(value)
        return self.rounding.round(f"{point}.stored", shared(value), self.intermediates, keeps_exact=False)

    def round_storage(self, point: str, value: Tensor) -> Tensor:
        """Returns the value as it is stored between kernels."""
        return self.rounding.round(point, shared(value), self.recipe.storage, keeps_exact=False)

    def product(self, point: str, left: Tensor, right: Tensor) -> Tensor:
        """Returns ``left @ right`` as the accumulator gives it; the operands are not rounded."""
        left, right = shared(left), shared(right)
        terms = left.shape[-1]
        value = left @ right

        def gauge() -> Tensor:
            # One sample is enough for a scale, and the squared product is what costs.
            squares = (left[:1] * left[:1]) @ (right[:1] * right[:1])
            pieces = zip(_pieces(left[:1], -1), _pieces(right[:1], -2), strict=True)
            return _gauge(value, terms, squares, [first @ second for first, second in pieces])

        def walk(signs: Signs) -> Tensor:
            # A term's direction is the product of its factors': equal terms of equal factors go the same way.
            return (signs("left", left, terms) @ signs("right", right, terms)).mul_(max(terms, 1) ** -0.5)

        return self.rounding.accumulate(point, value, gauge, self.recipe.accumulator, walk=walk)

    def total(self, point: str, value: Tensor, dim: int | Sequence[int], *, keepdim: bool = False) -> Tensor:
        """Returns the sum over ``dim`` as the accumulator gives it."""
        value = shared(value)
        dims = [dim] if isinstance(dim, int) else list(dim)
        terms = math.prod(value.shape[axis] for axis in dims)
        result = value.sum(dims, keepdim=keepdim)

        def gauge() -> Tensor:
            squares = (value * value).sum(dims, keepdim=keepdim)
            pieces = _pieces(value[:1], max(dims, key=lambda axis: value.shape[axis]))
            return _gauge(result, terms, squares, [piece.sum(dims, keepdim=keepdim) for piece in pieces])

        def walk(signs: Signs) -> Tensor:
            return signs("term", value, terms).sum(dims, keepdim=keepdim).mul_(max(terms, 1) ** -0.5)

        return self.rounding.accumulate(point, result, gauge, self.recipe.accumulator, walk=walk)

    def constant(self, point: str, value: float) -> Tensor:
        """Returns an option such as a scale as ``(samples, 1, 1, 1, 1)``.

        A kernel keeps it in the accumulator's format, perhaps as a square root or times log2(e): three roundings, the
        same for every element, so that they show as a gain.
        """
        number = torch.full((1, 1, 1, 1, 1), value, dtype=torch.float64)
        return self.rounding.approximate(point, number, 3 * unit(self.recipe.accumulator))

    def flushed(self, point: str, value: Tensor) -> Tensor:
        """Returns exponentials of which those below the accumulator's normal numbers may come out as 0.

        GPUs compute them so in float32 (PTX ISA, ``ex2.approx.ftz.f32``); no other accumulator has such a unit. It
        flushes all of them or none: in one execution they err alike, so that a sum of them is off by all of its terms.
        """
        small = (value > 0) & (value < 2.0 ** FORMAT_BITS["float32"][1])
        if self.recipe.accumulator != "float32" or not bool(small.any()):
            return value
        one = torch.ones([1] * value.dim(), dtype=value.dtype, device=value.device)
        return value + (self.rounding.approximate(point, one, 1.0) - one) * torch.where(small, value, 0.0)

    # -- differentiable operations: what emulators are written with ------------------------------------------------

    def sum(self, point: str, value: Tensor, dim: int | Sequence[int], *, keepdim: bool = False) -> Tensor:
        """Returns the accumulated sum over ``dim``; its gradient is copied."""
        shape = value.shape
        dims = [dim % value.dim()] if isinstance(dim, int) else [axis % value.dim() for axis in dim]

        def forward(x: Tensor) -> Tensor:
            return self.round_intermediate(point, self.total(point, x, dims, keepdim=keepdim))

        def backward(grad: Tensor) -> Tensor:
            if not keepdim:
                for axis in sorted(dims):
                    grad = grad.unsqueeze(axis)
            return grad.expand(shape)

        return self._point(value, forward, backward)

    def spread(self, point: str, value: Tensor, shape: Sequence[int]) -> Tensor:
        """Returns the value expanded to ``shape`` (sample axis included); its gradient is an accumulated sum."""
        dims = [axis for axis in range(1, len(shape)) if value.shape[axis] == 1 and shape[axis] != 1]

        def backward(grad: Tensor) -> Tensor:
            return self.total(f"{point}.grad", grad, dims, keepdim=True) if dims else grad

        return self._point(value, lambda x: x.expand(*shape), backward)

    def keep(self, point: str, value: Tensor) -> Tensor:
        """Returns an intermediate result: rounded to the recipe's intermediates, its gradient too."""
        return self._rounded(point, value, self.intermediates)

    def wide(self, point: str, value: Tensor) -> Tensor:
        """Returns a result that stays in the accumulator's format whatever the intermediates are."""
        return self._rounded(point, value, self.recipe.accumulator)

    def store(self, point: str, value: Tensor) -> Tensor:
        """Returns a result stored between kernels, in the storage format; its gradient is stored too."""
        return self._rounded(point, value, self.recipe.storage)

    def approximate(self, point: str, value: Tensor, error: float | None = None) -> Tensor:
        """Returns the value of a special function (exp, log, rsqrt), off by up to ``error`` relative.

        The default is the recipe's ``exp_error``. Its gradient passes unchanged.
        """
        size = self.exp_error if error is None else error
        return self._point(value, lambda x: self.rounding.approximate(point, x, size), lambda grad: grad)

    def fork(self, point: str, value: Tensor, count: int) -> tuple[Tensor, ...]:
        """Returns ``count`` uses of a stored tensor; the gradients are added one by one and stored after each."""
        uses = []
        for index in range(count - 1):
            name = f"{point}.{index}.grad"
            value = self._point(
                value, lambda x: x, lambda grad, name=name: self.round_storage(name, grad)  # type: ignore[misc]
            )  # fmt: skip
            uses.append(value)
        return (*uses, value)

    def _rounded(self, point: str, value: Tensor, fmt: str) -> Tensor:
        return self._point(
            value,
            lambda x: self.rounding.round(point, shared(x), fmt, keeps_exact=False),
            lambda grad: self.rounding.round(f"{point}.grad", shared(grad), fmt, keeps_exact=False),
        )

    def _point(
        self, value: Tensor, forward: Callable[[Tensor], Tensor], backward: Callable[[Tensor], Tensor]
    ) -> Tensor:
        return _Point.apply(  # type: ignore[no-any-return,no-untyped-call]  # autograd.Function is untyped
            value, lambda x: self.all_samples(forward(x)), lambda grad: self.all_samples(backward(grad))
        )

    def all_samples(self, value: Tensor) -> Tensor:
        """Returns the value with a full sample axis, expanded if all samples share it."""
        return value if value.shape[0] == self.samples else value.expand(self.samples, *value.shape[1:])
