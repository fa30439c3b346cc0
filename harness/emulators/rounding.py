"""What happens at a rounding point: nothing, round to nearest, a random legal rounding, or a fault.

Formats are given by precision ``p`` (significant bits) and smallest normal exponent. One unit ``u = 2^-p`` is half a
unit in the last place at the lower end of a binade, the largest relative error of one rounding.

Random rounding is Monte-Carlo arithmetic (Parker 1997, "Monte Carlo arithmetic: exploiting randomness in
floating-point arithmetic"; tools Verificarlo and Verrou) with one change: **the direction depends on the value**, a
hash of its leading bits and the sample's seed, never on its position. A real kernel rounds equal values alike and
opposite values oppositely, so rows in which many softmax weights are equal err coherently; independent noise per
element would call them faulty. What counts as equal is what the format makes equal: values that differ by a small part
of its unit have the same rounding error but for that part, unless a tie lies between them, whatever their last bits in
float32.

The first axis of every tensor is the sample axis.
"""

import math
import zlib
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

__all__ = [
    "FORMAT_BITS",
    "Directed",
    "Fault",
    "Identity",
    "Nearest",
    "Random",
    "Rounding",
    "Signs",
    "Walk",
    "half_ulp",
    "to_nearest",
    "unit",
]

FORMAT_BITS: Mapping[str, tuple[int, int]] = {
    "float64": (53, -1022),
    "float32": (24, -126),
    "tf32": (11, -126),
    "float16": (11, -14),
    "bfloat16": (8, -126),
}
"""Significant bits and smallest normal exponent of each format."""

_EXPONENT = 0x7FF0000000000000
_SIGN_AND_EXPONENT = -0x0010000000000000
_SUBNORMALS_MATTER = -100
"""Formats whose smallest normal exponent is above it: float16, whose softmax weights reach its subnormal range."""
_BEYOND = 7
"""Bits beyond a format's own by which values are told apart when they are rounded to it: values that agree in them
differ by less than 2^-7 of a unit in the last place, and so do their rounding errors unless a tie lies between."""
_MIX = -1640531535  # 2654435761 as a signed 32-bit integer, Knuth's multiplier
_TO_UNIT = 2.0**-31


def unit(fmt: str) -> float:
    """Returns ``u = 2^-p``, the largest relative error of one rounding to nearest in the format."""
    return float(2.0 ** -FORMAT_BITS[fmt][0])


def half_ulp(value: Tensor, fmt: str) -> Tensor:
    """Returns half a unit in the last place of the format at each value (float64), also below the normal range."""
    bits, smallest = FORMAT_BITS[fmt]
    power = (value.contiguous().view(torch.int64) & _EXPONENT).view(torch.float64)
    return power.clamp_min_(2.0**smallest).mul_(2.0**-bits)


def to_nearest(value: Tensor, fmt: str) -> Tensor:
    """Returns float64 values rounded to the nearest number of the format, ties to even."""
    if fmt == "float64":
        return value
    if fmt == "tf32":
        bits = value.to(torch.float32).view(torch.int32)
        bits = bits + 0x0FFF + ((bits >> 13) & 1)
        return (bits & ~0x1FFF).view(torch.float32).to(torch.float64)
    return value.to(getattr(torch, fmt)).to(torch.float64)


Signs = Callable[[str, Tensor, int], Tensor]
"""Of a name, terms or factors of terms, and the number of terms: the direction in which each of them errs, float32."""

Walk = Callable[[Signs], Tensor]
"""Sums the directions of a sum's terms as the sum does its terms, over the root of their number: ``(samples, ...)``."""


class Rounding(Protocol):
    """What an execution does at its rounding points."""

    samples: int
    """Number of executions on the sample axis."""

    def round(self, point: str, value: Tensor, fmt: str, *, keeps_exact: bool) -> Tensor:
        """Returns the value as the format stores it; ``keeps_exact``: a number of the format stays what it is."""
        ...

    def accumulate(
        self, point: str, value: Tensor, gauge: Callable[[], Tensor], fmt: str, *, key: Tensor | None = None,
        walk: Walk | None = None,
    ) -> Tensor:  # fmt: skip
        """Returns a sum as an accumulator gives it; ``gauge()`` is the root of the sum of squared partial sums.

        Sums of equal ``key`` err alike; the key is the sum itself if None. With ``walk``, sums of equal terms do.
        """
        ...

    def approximate(self, point: str, value: Tensor, error: float) -> Tensor:
        """Returns a function's value as an approximation of that relative error gives it."""
        ...


class Identity:
    """No rounding: the emulator is a second formulation of the operation."""

    samples = 1

    def round(self, point: str, value: Tensor, fmt: str, *, keeps_exact: bool) -> Tensor:
        """Returns the value."""
        return value

    def accumulate(
        self, point: str, value: Tensor, gauge: Callable[[], Tensor], fmt: str, *, key: Tensor | None = None,
        walk: Walk | None = None,
    ) -> Tensor:  # fmt: skip
        """Returns the value."""
        return value

    def approximate(self, point: str, value: Tensor, error: float) -> Tensor:
        """Returns the value."""
        return value


class Nearest:
    """Round to nearest at every point: a healthy kernel of the recipe, with exact sums rounded once."""

    samples = 1

    def round(self, point: str, value: Tensor, fmt: str, *, keeps_exact: bool) -> Tensor:
        """Returns the nearest number of the format."""
        return to_nearest(value, fmt)

    def accumulate(
        self, point: str, value: Tensor, gauge: Callable[[], Tensor], fmt: str, *, key: Tensor | None = None,
        walk: Walk | None = None,
    ) -> Tensor:  # fmt: skip
        """Returns the sum rounded once."""
        return to_nearest(value, fmt)

    def approximate(self, point: str, value: Tensor, error: float) -> Tensor:
        """Returns the value."""
        return value


class Directed(Nearest):
    """Round to nearest, with special functions that all err upwards by as much as they may.

    A hardware exponential errs by a fixed function of its argument, and often mostly in one direction; a recipe that
    grants the error grants the direction too. Errors of one sign add up over a tensor, where random ones cancel.
    """

    def approximate(self, point: str, value: Tensor, error: float) -> Tensor:
        """Returns the value moved up by its relative error."""
        return value * (1 + error)


class Random:
    """A random legal rounding at every point, ``samples`` executions at once.

    Args:
        samples: number of executions.
        seed: any integer; the same seed gives the same executions.
    """

    def __init__(self, samples: int, seed: int) -> None:
        self.samples = samples
        generator = torch.Generator().manual_seed(seed)
        self._multipliers = (torch.randint(-(2**30), 2**30, (samples,), generator=generator) * 2 + 1).to(torch.int32)
        self._offsets = torch.randint(-(2**31), 2**31, (samples,), generator=generator).to(torch.int32)
        self._edges = torch.randint(0, 2**30, (samples,), generator=generator).to(torch.int32)

    def round(self, point: str, value: Tensor, fmt: str, *, keeps_exact: bool) -> Tensor:
        """Returns the value moved by up to half a unit in the last place, alike for equal values."""
        # The reference has roundings of float64 itself, so noise of one unit would not show it: use four.
        scale = 4.0 if fmt == "float64" else 1.0
        bits, smallest = FORMAT_BITS[fmt]
        signed_power = (value.contiguous().view(torch.int64) & _SIGN_AND_EXPONENT).view(torch.float64)
        if smallest > _SUBNORMALS_MATTER:
            # Zero rounds to zero; without that, what is hidden by structure would have a tolerance.
            signed_power = torch.sign(value) * signed_power.abs().clamp_min_(2.0**smallest)
        if keeps_exact and fmt != "float64":
            signed_power = torch.where(to_nearest(value, fmt) == value, 0.0, signed_power)
        dropped = max(0, FORMAT_BITS["float32"][0] - bits - _BEYOND)
        return self._noise(point, value, dropped).mul_(signed_power).mul_(scale * 2.0**-bits).add_(value)

    def accumulate(
        self, point: str, value: Tensor, gauge: Callable[[], Tensor], fmt: str, *, key: Tensor | None = None,
        walk: Walk | None = None,
    ) -> Tensor:  # fmt: skip
        """Returns the sum moved by up to ``u`` times its gauge; more where equal terms walk the same way."""
        size = unit(fmt) * (4.0 if fmt == "float64" else 1.0)
        if walk is not None:
            steps = walk(lambda label, terms, count: self._signs(f"{point}.{label}", terms, count)).to(torch.float64)
            sized = gauge()
            return self._of_pairs(point, steps, sized).mul_(sized).mul_(size / math.sqrt(3)).add_(value)
        drawn_by = value if key is None else key
        return self._noise(point, drawn_by).mul_(torch.copysign(gauge(), drawn_by).mul_(size)).add_(value)

    def approximate(self, point: str, value: Tensor, error: float) -> Tensor:
        """Returns the value moved by up to its relative error."""
        return self._noise(point, value).mul_(value * error).add_(value)

    def _of_pairs(self, point: str, steps: Tensor, sized: Tensor) -> Tensor:
        """Returns summed directions, and random ones where no sample has any: where terms are in opposite pairs.

        Their sum is zero, but what was rounded off between a term and its opposite need not come back.
        """
        still = (steps == 0).all(0, keepdim=True) & (sized != 0)
        return torch.where(still, self._noise(point, sized).mul_(math.sqrt(3)), steps) if bool(still.any()) else steps

    def _noise(self, point: str, value: Tensor, dropped: int = 0) -> Tensor:
        """Returns numbers in (-1, 1), a function of the magnitude of the value, the point and the sample alone.

        The callers multiply it by something that has the sign of the value: rounding to nearest is odd, and scores of
        opposite keys are off by opposite amounts. Only the leading ``24 - dropped`` bits count: equal weights that
        differ in the last bits of float64 still round alike. The point counts, because two sums of equal value in
        different places of a kernel are two sums. Multiply-add hashing (Dietzfelbinger et al. 1997) with one mixing
        step.
        """
        return self._hashed(point, self._leading(value, dropped)).to(torch.float64).mul_(_TO_UNIT)

    def _leading(self, value: Tensor, dropped: int) -> Tensor:
        """Returns the bits of float32 numbers without their last ones, cut at another place in every sample.

        Values that are nearly alike are then parted by the cut in few samples, wherever they lie; a cut that stood
        still would part the same ones in all.
        """
        bits = value.to(torch.float32).view(torch.int32)
        if not dropped:
            return bits
        edges = (self._edges & ((1 << dropped) - 1)).to(bits.device).view(self.samples, *([1] * (bits.dim() - 1)))
        return (bits + edges) >> dropped << dropped

    def _signs(self, point: str, value: Tensor, terms: int) -> Tensor:
        """Returns the direction (float32: -1, 1, or 0 for 0) in which each term of sums of so many terms errs.

        An addition rounds off what the term has below the last place of the partial sum, so that equal terms err alike
        at every addition, and opposite ones oppositely. The partial sum is longer than the term by a good part of the
        bits of the number of terms; terms that differ in fewer bits than that are equal here.
        """
        hashed = self._hashed(point, self._leading(value, max(0, terms.bit_length() - 2)))
        directions = (hashed >> 31).to(torch.float32).mul_(2).add_(1)
        return directions.mul_(torch.sign(value).to(torch.float32))

    def _hashed(self, point: str, bits: Tensor) -> Tensor:
        """Returns 32-bit hashes ``(samples, ...)`` of the bits of float32 numbers, without their sign."""
        shape = (self.samples, *([1] * (bits.dim() - 1)))
        leading = bits << 1  # the sign goes
        leading ^= leading >> 15  # numbers of a short format have only high bits: bring some down
        label = zlib.crc32(point.encode()) & 0x7FFFFFFE  # even, so that multipliers stay odd
        hashed = leading * (self._multipliers ^ label).to(bits.device).view(shape)
        hashed += (self._offsets ^ label).to(bits.device).view(shape)
        hashed ^= hashed >> 15
        hashed *= _MIX
        return hashed


class Fault:
    """Another rounding with a wrong line at some points: what a seeded fault is made of.

    Args:
        healthy: what happens everywhere else.
        changes: point name to a function of the value; it is applied after the healthy rounding.
    """

    def __init__(self, healthy: Rounding, changes: Mapping[str, Callable[[Tensor], Tensor]]) -> None:
        self.samples = healthy.samples
        self._healthy = healthy
        self._changes = changes

    def round(self, point: str, value: Tensor, fmt: str, *, keeps_exact: bool) -> Tensor:
        """Returns the healthy value, changed if the point is a faulty one."""
        return self._apply(point, self._healthy.round(point, value, fmt, keeps_exact=keeps_exact))

    def accumulate(
        self, point: str, value: Tensor, gauge: Callable[[], Tensor], fmt: str, *, key: Tensor | None = None,
        walk: Walk | None = None,
    ) -> Tensor:  # fmt: skip
        """Returns the healthy sum, changed if the point is a faulty one."""
        return self._apply(point, self._healthy.accumulate(point, value, gauge, fmt, key=key, walk=walk))

    def approximate(self, point: str, value: Tensor, error: float) -> Tensor:
        """Returns the healthy value, changed if the point is a faulty one."""
        return self._apply(point, self._healthy.approximate(point, value, error))

    def _apply(self, point: str, value: Tensor) -> Tensor:
        change = self._changes.get(point)
        return value if change is None else change(value)
