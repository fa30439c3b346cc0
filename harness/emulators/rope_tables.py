"""Rotary tables as a legal kernel makes them: exact phases, then cosine and sine in the accumulator's format.

An angle in float32 is off by 0.03 at position 2^20, which no recipe allows. What is allowed: the angle, reduced to one
turn, rounded to the accumulator's format, and a cosine and a sine with the error of an exponential. There are no
gradients. Letters: ``B`` batch, ``T`` tokens, ``R`` rotated channels.

The phase is counted as hardware oscillators do it: a frequency is an integer number of 2^-64 turns plus a remainder,
and a 64-bit product that overflows drops whole turns, exactly.

Rounding points: ``angle``, ``cos``, ``sin``.
"""

import math
from collections.abc import Mapping
from decimal import Decimal, localcontext
from typing import Any

import torch
from torch import Tensor

from harness.emulators.arithmetic import Arithmetic

__all__ = ["emulate"]

_DIGITS = 60
_TAU = Decimal("6.28318530717958647692528676655900576839433879875021164194989")
_PHASE_BITS = 64


def emulate(arithmetic: Arithmetic, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns ``{"cos": (B,T,R), "sin": (B,T,R)}``, a sample axis before both, before the final store.

    Args:
        arithmetic: the recipe and what happens at its rounding points.
        tensors: ``positions`` (B, T), integers, without sample axis.
        options: ``rope_dim``, ``base``, ``style`` and ``scaling``.
    """
    rope_dim, style = int(options["rope_dim"]), str(options["style"])
    positions = tensors["positions"].to(torch.int64)[None, ..., None]
    with localcontext() as context:
        context.prec = _DIGITS
        frequencies, magnitude = _frequencies(rope_dim, Decimal(options["base"]), options.get("scaling"))
        phases = [_phase(frequency / _TAU) for frequency in frequencies]
    whole = torch.tensor([phase for phase, _ in phases], dtype=torch.int64, device=positions.device)
    rest = torch.tensor([rest for _, rest in phases], dtype=torch.float64, device=positions.device)
    turns = (positions * whole).to(torch.float64) + positions * rest
    angle = arithmetic.wide("angle", arithmetic.all_samples(turns * (math.tau * 2.0**-_PHASE_BITS)))
    tables = {
        "cos": arithmetic.approximate("cos", angle.cos() * magnitude),
        "sin": arithmetic.approximate("sin", angle.sin() * magnitude),
    }
    if style == "half":
        return {name: torch.cat((table, table), -1) for name, table in tables.items()}
    return {name: torch.stack((table, table), -1).flatten(-2) for name, table in tables.items()}


def _phase(turns: Decimal) -> tuple[int, float]:
    """Returns the phase per position in units of 2^-64 turns: the signed 64-bit integer and what is left of it."""
    exact = turns * 2**_PHASE_BITS
    whole = int(exact.to_integral_value())
    wrapped = (whole + 2 ** (_PHASE_BITS - 1)) % 2**_PHASE_BITS - 2 ** (_PHASE_BITS - 1)
    return wrapped, float(exact - whole)


def _frequencies(rope_dim: int, base: Decimal, scaling: Mapping[str, Any] | None) -> tuple[list[Decimal], float]:
    """Returns the R/2 angles per position and the factor of both tables."""
    kind = None if scaling is None else scaling["type"]
    step = -2 * base.ln() / rope_dim
    if scaling is None or kind not in {"linear", "ntk", "yarn"}:
        return [(step * index).exp() for index in range(rope_dim // 2)], 1.0
    factor = Decimal(scaling["factor"])
    if kind == "linear":
        return [(step * index).exp() / factor for index in range(rope_dim // 2)], 1.0
    if kind == "ntk":
        # base * factor^(R / (R - 2)) stretches the slowest pair by exactly the factor and the fastest not at all.
        step -= 2 * factor.ln() / (rope_dim - 2)
        return [(step * index).exp() for index in range(rope_dim // 2)], 1.0
    slow = _slow_shares(rope_dim, base, scaling)
    stretched = [(step * index).exp() * (1 - share + share / factor) for index, share in enumerate(slow)]
    magnitude = scaling.get("attention_factor")
    if magnitude is None:
        magnitude = factor.ln() / 10 + 1 if factor > 1 else 1
    return stretched, float(magnitude)


def _slow_shares(rope_dim: int, base: Decimal, scaling: Mapping[str, Any]) -> list[Decimal]:
    """Returns, per pair of channels, how far YaRN goes from its own frequency (0) to the interpolated one (1)."""
    length = Decimal(scaling["original_max_position"])

    def pair_with(turns: float) -> Decimal:
        """Returns the index of the pair that makes that many turns over the original length."""
        return (length / (_TAU * Decimal(turns))).ln() / base.ln() * rope_dim / 2

    first = Decimal(max(math.floor(pair_with(scaling.get("beta_fast", 32.0))), 0))
    last = Decimal(min(math.ceil(pair_with(scaling.get("beta_slow", 1.0))), rope_dim - 1))
    if first == last:
        last += Decimal("0.001")
    return [min(max((index - first) / (last - first), Decimal(0)), Decimal(1)) for index in range(rope_dim // 2)]
