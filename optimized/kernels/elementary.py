"""Elementary functions of float32 for kernels, to a few units in the last place whatever the argument.

The GPU's own instructions do not give that: ``tl.exp`` rounds ``x log2(e)`` first, which costs an exponential near
``x = -40`` some forty units, and ``tl.log`` next to 1 keeps an absolute error only. Here both are polynomials of a
reduced argument, the same numbers in the interpreter, up to the contraction of products and sums into one rounding.
A NaN stays a NaN.
"""

from typing import Final

import triton
import triton.language as tl

__all__ = ["accurate_exp", "log1p_exp", "quick_sigmoid_pair", "sigmoid_pair"]

# A product of LN2_HIGH, which has 10 significant bits, and of an exponent is exact: contraction changes nothing there.
_LOG2_E: Final = tl.constexpr(1.4426950408889634)
_LN2_HIGH: Final = tl.constexpr(0.693359375)
_LN2_LOW: Final = tl.constexpr(-2.12194440054690583e-4)

_VANISHED: Final = tl.constexpr(-104.0)
"""Argument from which the exponential is less than half of the smallest float32."""

_ROUNDER: Final = tl.constexpr(1.5 * 2**23 + 24)
"""Added to a small float32 it leaves the nearest integer, and that integer plus 24 in the last bits of the sum."""


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _exp_of_negative(x: tl.tensor) -> tl.tensor:
    """Returns ``exp(x)`` for ``x <= 0``: with ``x = n ln 2 + r``, ``|r| <= 0.35``, it is ``2^n`` times a Taylor sum.

    The sum goes to r^8, and its remainder is 3e-10 of it: errors of one sign add up over a tensor of like arguments. It
    is multiplied by ``2^(n + 24)`` and then by ``2^-24``, of which the first is exact: results below the smallest
    normal number are rounded once.
    """
    bounded = tl.maximum(x, _VANISHED, propagate_nan=tl.PropagateNan.ALL)
    shifted = bounded * _LOG2_E + _ROUNDER
    power = shifted - _ROUNDER
    rest = bounded - power * _LN2_HIGH - power * _LN2_LOW
    total = 1.0 / 5040 + rest * (1.0 / 40320)
    total = 1.0 / 720 + rest * total
    total = 1.0 / 120 + rest * total
    total = 1.0 / 24 + rest * total
    total = 1.0 / 6 + rest * total
    total = 0.5 + rest * total
    total = 1.0 + rest * (1.0 + rest * total)
    # The shift pushes out all bits of the rounder but the last ones; 0x3F800000 is 1.0.
    power_of_two = ((shifted.to(tl.int32, bitcast=True) << 23) + 0x3F800000).to(tl.float32, bitcast=True)
    return total * power_of_two * 2.0**-24


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _inverse_of_one_to_two(x: tl.tensor) -> tl.tensor:
    """Returns ``1 / x`` for x in [1, 2]: a cubic with an error of 1/577, squared by each of two steps of Newton.

    Newton's errors have one sign. From a parabola, 1/99, they were 1e-8, which shows in the sum over a tensor; 9e-12
    does not. Seven operations, where the GPU's own quotient takes ten and the one rounded to nearest twenty.
    """
    inverse = 1632.0 / 577 + x * (x * (768.0 / 577 - x * (128.0 / 577)) - 1696.0 / 577)
    inverse = tl.fma(inverse, tl.fma(-x, inverse, 1.0), inverse)
    return tl.fma(inverse, tl.fma(-x, inverse, 1.0), inverse)


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def accurate_exp(x: tl.tensor) -> tl.tensor:
    """Returns ``exp(x)``; beyond 87 it is the inverse of a subnormal number, which has fewer bits."""
    e = _exp_of_negative(-tl.abs(x))
    return tl.where(x > 0, tl.div_rn(1.0, e), e)


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def log1p_exp(x: tl.tensor) -> tl.tensor:
    """Returns ``log(1 + exp(x))`` for ``x <= 0``, with full relative accuracy also where the exponential is tiny.

    ``log(1 + e) = 2 artanh(s)`` with ``s = e / (2 + e)``, which is at most 1/3: the series to ``s^17`` leaves 2e-10.
    Twice ``s`` is divided, so that no bit below the smallest normal number is lost by doubling it later.
    """
    e = _exp_of_negative(x)
    twice = tl.div_rn(2.0 * e, 2.0 + e)
    square = 0.25 * twice * twice
    total = 1.0 / 15 + square * (1.0 / 17)
    total = 1.0 / 13 + square * total
    total = 1.0 / 11 + square * total
    total = 1.0 / 9 + square * total
    total = 1.0 / 7 + square * total
    total = 1.0 / 5 + square * total
    total = 1.0 / 3 + square * total
    return twice + twice * square * total


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def sigmoid_pair(x: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Returns ``1 / (1 + exp(-x))`` and ``1`` less that, each with full relative accuracy and without overflow."""
    e = _exp_of_negative(-tl.abs(x))
    inverse = _inverse_of_one_to_two(1.0 + e)
    small = e * inverse
    return tl.where(x < 0, small, inverse), tl.where(x < 0, inverse, small)


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def quick_sigmoid_pair(x: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Returns what ``sigmoid_pair`` does, to some ``|x|`` units in the last place: for results of a 16-bit format.

    A third of the instructions: the exponential is the GPU's own, and so is the quotient.
    """
    e = tl.exp(-tl.abs(x))
    inverse = 1.0 / (1.0 + e)
    small = e * inverse
    return tl.where(x < 0, small, inverse), tl.where(x < 0, inverse, small)
