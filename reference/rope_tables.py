"""Cosines and sines of the rotary angles, exact to the last digits of float64 also at position 2^20.

A float64 product ``position * frequency`` is off by up to half a unit of the *angle*, 6e-11 at an angle of 10^6, and
that error is what the cosine sees. Here the frequency is computed in decimal arithmetic with 50 digits and cut into a
coarse part of 26 bits and the remainder. ``position * coarse`` is then exact for ``|position| < 2^27``,
``position * fine`` is at most 2^-26 of it, and the angle addition theorem joins the two: the tables are within 4 units
of 2^-53 of the truth.

Source: Su et al., "RoFormer" (2021), section 3.2.2; linear: Chen et al., "Extending Context Window via Positional
Interpolation" (2023); NTK: bloc97 (2023), as described in Peng et al., "YaRN" (2023), section 3.1; YaRN: the same
paper, sections 3.2 and 3.4, with the truncated ramp bounds of its published code and of transformers.
"""

import math
from collections.abc import Callable, Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from reference.checks import require_positive
from reference.rope import RopeStyle

__all__ = ["RopeTables", "rope_tables"]

_DIGITS = 50
_COARSE_BITS = 26
_MAX_POSITION = 2 ** (53 - _COARSE_BITS)
_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494")

_DEFAULTS: dict[str, dict[str, Any]] = {
    "linear": {},
    "ntk": {},
    "yarn": {"beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": None},
}
_REQUIRED: dict[str, tuple[str, ...]] = {
    "linear": ("factor",),
    "ntk": ("factor",),
    "yarn": ("factor", "original_max_position"),
}


class RopeTables(NamedTuple):
    """The cosine and the sine table, each ``(*positions.shape, rope_dim)``."""

    cos: Tensor
    sin: Tensor


def rope_tables(
    positions: Tensor,
    *,
    rope_dim: int,
    base: float,
    style: RopeStyle | Literal["half", "interleaved"],
    scaling: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float64,
) -> RopeTables:
    """Returns the cosines and sines of ``position * frequency_i``, for ``i = 0 .. rope_dim/2 - 1``.

    Definition:
        ``frequency_i = base^(-2i/R)`` with ``R = rope_dim``, changed by ``scaling``:

        - ``{"type": "linear", "factor": f}``: all frequencies divided by f.
        - ``{"type": "ntk", "factor": f}``: base replaced by ``base * f^(R/(R-2))``; needs ``R > 2``.
        - ``{"type": "yarn", "factor": f, "original_max_position": n, "beta_fast": 32, "beta_slow": 1,
          "attention_factor": None}``: ``frequency_i * (1 - r_i + r_i / f)`` with the ramp
          ``r_i = clamp((i - low) / (high - low), 0, 1)``, ``low = max(floor(c(beta_fast)), 0)``,
          ``high = min(ceil(c(beta_slow)), R - 1)``, ``c(b) = R ln(n / (2 pi b)) / (2 ln base)``; when both bounds are
          equal, ``high`` is raised by 0.001. Cosine *and* sine are multiplied by ``attention_factor``, or, if it is
          None, by ``0.1 ln(f) + 1`` (by 1 for ``f <= 1``).

    Conventions:
        HALF repeats the angles block-wise, ``[a_0 .. a_n, a_0 .. a_n]``; INTERLEAVED element-wise,
        ``[a_0, a_0, a_1, a_1, ..]``. ``base``, ``factor`` and the betas are the exact values of the given floats.

    Numerics:
        Computed in float64 whatever the default dtype is, then rounded once to ``dtype``.

    Args:
        positions: integers of any shape, usually ``(B, T)``, of magnitude below 2^27.
        rope_dim: even number of rotated channels.
        base: positive; greater than 1 for YaRN.
        style: how the angles are laid out.
        scaling: None or one of the mappings above; keys with a value shown may be left out.
        dtype: floating-point dtype of the tables.

    Returns:
        ``RopeTables(cos, sin)`` on the device of the positions.

    Raises:
        TypeError: positions are no integer tensor, dtype is not floating-point, or a number is none.
        ValueError: a position is too large, rope_dim is odd, a number is out of range, or style or scaling is unknown.
    """
    style = RopeStyle(style)
    _check(positions, rope_dim, base, dtype)
    options = _scaling_options(scaling, rope_dim, base)
    with localcontext() as context:
        context.prec = _DIGITS
        frequencies = _frequencies(rope_dim, Decimal(base), options)
        magnitude = _magnitude(options)
        coarse = [_leading_bits(f) for f in frequencies]
        fine = [float(f - Decimal(c)) for f, c in zip(frequencies, coarse, strict=True)]
    position = positions.to(torch.float64).unsqueeze(-1)
    a = position * torch.tensor(coarse, dtype=torch.float64, device=positions.device)
    b = position * torch.tensor(fine, dtype=torch.float64, device=positions.device)
    cos = (a.cos() * b.cos() - a.sin() * b.sin()) * magnitude
    sin = (a.sin() * b.cos() + a.cos() * b.sin()) * magnitude
    expand: Callable[[Tensor], Tensor] = _twice if style is RopeStyle.HALF else _each_twice
    return RopeTables(expand(cos).to(dtype), expand(sin).to(dtype))


def _twice(x: Tensor) -> Tensor:
    return torch.cat((x, x), -1)


def _each_twice(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, -1)


def _leading_bits(value: Decimal) -> float:
    mantissa, exponent = math.frexp(float(value))
    return math.ldexp(round(math.ldexp(mantissa, _COARSE_BITS)), exponent - _COARSE_BITS)


def _frequencies(rope_dim: int, base: Decimal, options: dict[str, Any]) -> list[Decimal]:
    kind = options["type"]
    factor = Decimal(options["factor"])
    if kind == "ntk":
        base *= factor ** (Decimal(rope_dim) / (rope_dim - 2))
    plain = [base ** (Decimal(-2 * i) / rope_dim) for i in range(rope_dim // 2)]
    if kind == "linear":
        return [f / factor for f in plain]
    if kind == "yarn":
        return [f * (1 - r + r / factor) for f, r in zip(plain, _yarn_ramp(rope_dim, base, options), strict=True)]
    return plain


def _yarn_ramp(rope_dim: int, base: Decimal, options: dict[str, Any]) -> list[Decimal]:
    def channel_of(turns: float) -> Decimal:
        length = Decimal(options["original_max_position"])
        return rope_dim * (length / (2 * _PI * Decimal(turns))).ln() / (2 * base.ln())

    zero, one = Decimal(0), Decimal(1)
    low = max(channel_of(options["beta_fast"]).to_integral_value(ROUND_FLOOR), zero)
    high = min(channel_of(options["beta_slow"]).to_integral_value(ROUND_CEILING), Decimal(rope_dim - 1))
    if low == high:
        high += Decimal("0.001")
    return [min(max((i - low) / (high - low), zero), one) for i in range(rope_dim // 2)]


def _magnitude(options: dict[str, Any]) -> float:
    if options["type"] != "yarn":
        return 1.0
    if options["attention_factor"] is not None:
        return float(options["attention_factor"])
    factor = Decimal(options["factor"])
    return float(factor.ln() / 10 + 1) if factor > 1 else 1.0


def _check(positions: Tensor, rope_dim: int, base: float, dtype: torch.dtype) -> None:
    if not isinstance(positions, Tensor):
        raise TypeError(f"positions: got {type(positions).__name__}, expected an integer tensor")
    if positions.dtype not in {torch.int32, torch.int64}:
        raise TypeError(f"positions: got {positions.dtype}, expected torch.int32 or torch.int64")
    if not dtype.is_floating_point:
        raise TypeError(f"dtype: got {dtype}, expected a floating-point dtype")
    if isinstance(rope_dim, bool) or not isinstance(rope_dim, int) or rope_dim <= 0 or rope_dim % 2:
        raise ValueError(f"rope_dim: got {rope_dim!r}, expected a positive even number")
    require_positive("base", base)
    if positions.numel() and (largest := int(positions.abs().max())) >= _MAX_POSITION:
        raise ValueError(f"positions: got magnitude {largest}, expected less than 2^27")


def _scaling_options(scaling: Mapping[str, Any] | None, rope_dim: int, base: float) -> dict[str, Any]:
    if scaling is None:
        return {"type": None, "factor": 1.0}
    kind = scaling.get("type")
    if kind not in _REQUIRED:
        raise ValueError(f"scaling['type']: got {kind!r}, expected one of {', '.join(_REQUIRED)}")
    options = {**_DEFAULTS[kind], **scaling}
    expected = {"type", *_REQUIRED[kind], *_DEFAULTS[kind]}
    if options.keys() != expected:
        raise ValueError(f"scaling: got keys {sorted(scaling)}, expected {sorted(expected)}")
    for name, value in options.items():
        if name != "type" and not (name == "attention_factor" and value is None):
            require_positive(f"scaling[{name!r}]", value)
    if kind == "ntk" and rope_dim == 2:
        raise ValueError("rope_dim: got 2, expected more than 2 with NTK scaling")
    if kind == "yarn" and base <= 1:
        raise ValueError(f"base: got {base!r}, expected more than 1 with YaRN scaling")
    return options
