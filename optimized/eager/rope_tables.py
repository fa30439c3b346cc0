"""Cosine and sine tables of rotary embeddings in plain torch. Letters: B batch, T tokens, R rotated channels."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optimized.eager.checks import check_multiple
from optimized.eager.rope import check_style

__all__ = ["RopeTables", "rope_tables"]


class RopeTables(NamedTuple):
    """Cosines and sines, each (B, T, R)."""

    cos: Tensor
    sin: Tensor


def rope_tables(
    positions: Tensor, *, rope_dim: int, base: float, style: str, scaling: Mapping[str, Any] | None = None
) -> RopeTables:
    """Computes cosine and sine of ``position * base^(-2i/R)``.

    The angles are computed in float64 whatever the result's dtype: at position 2^20 a float32 angle is off by some
    hundredths, which no later rounding explains.

    Args:
        positions: shape (B, T), integers or floating point.
        rope_dim: R, even.
        base: base of the geometric row of frequencies.
        style: "half" repeats the angles block-wise, "interleaved" element-wise.
        scaling: None; ``{"type": "linear", "factor"}`` divides the positions; ``{"type": "ntk", "factor"}`` takes the
            base ``base * factor^(R / (R - 2))``; ``{"type": "yarn", "factor", "original_max_position"[, "beta_fast",
            "beta_slow", "attention_factor"]}`` blends both ends of the row and multiplies the tables by
            ``attention_factor``, ``0.1 ln(factor) + 1`` if that is None.

    Returns:
        Tables of shape ``positions.shape + (R,)``, float64 for float64 positions, else float32.

    Raises:
        ValueError: R is odd, style or scaling is unknown or lacks an entry, or R is 2 with NTK.

    Source: Su et al., "RoFormer", section 3.2.2; Peng et al., "YaRN", sections 3.2 and 3.4, with the band limits of
        transformers' ``_compute_yarn_parameters``.
    """
    check_multiple("rope_dim", rope_dim, 2)
    check_style(style)
    frequencies, magnitude = _frequencies(rope_dim=rope_dim, base=base, scaling=scaling)
    angles = positions.to(torch.float64).unsqueeze(-1) * frequencies.to(positions.device)
    angles = torch.cat((angles, angles), dim=-1) if style == "half" else angles.repeat_interleave(2, dim=-1)
    dtype = torch.float64 if positions.dtype == torch.float64 else torch.float32
    return RopeTables(cos=(angles.cos() * magnitude).to(dtype), sin=(angles.sin() * magnitude).to(dtype))


def _frequencies(*, rope_dim: int, base: float, scaling: Mapping[str, Any] | None) -> tuple[Tensor, float]:
    """Returns R/2 frequencies in float64 and the factor of the tables."""
    exponents = torch.arange(0, rope_dim, 2, dtype=torch.float64) / rope_dim
    frequencies = torch.pow(torch.tensor(base, dtype=torch.float64), -exponents)
    if scaling is None:
        return frequencies, 1.0
    kind = scaling.get("type")
    for entry in ("factor", "original_max_position") if kind == "yarn" else ("factor",):
        if entry not in scaling:
            raise ValueError(f"scaling: got entries {sorted(scaling)}, expected {entry!r} among them")
    factor = float(scaling["factor"])
    if kind == "linear":
        return frequencies / factor, 1.0
    if kind == "ntk":
        if rope_dim == 2:
            raise ValueError("rope_dim: got 2, expected at least 4 with NTK, whose exponent is R / (R - 2)")
        return _frequencies(rope_dim=rope_dim, base=base * factor ** (rope_dim / (rope_dim - 2)), scaling=None)
    if kind == "yarn":
        magnitude = scaling.get("attention_factor")
        if magnitude is None:
            magnitude = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
        kept = _yarn_kept(rope_dim=rope_dim, base=base, scaling=scaling)
        return frequencies * kept + frequencies / factor * (1 - kept), float(magnitude)
    raise ValueError(f"scaling: got type {kind!r}, expected 'linear', 'ntk' or 'yarn'")


def _yarn_kept(*, rope_dim: int, base: float, scaling: Mapping[str, Any]) -> Tensor:
    """Returns which part of each frequency YaRN leaves as it is: 1 for the fast ones, 0 for the slow ones."""
    length = float(scaling["original_max_position"])

    def index_of(rotations: float) -> float:
        return rope_dim * math.log(length / (2 * math.pi * rotations)) / (2 * math.log(base))

    low = max(math.floor(index_of(float(scaling.get("beta_fast", 32.0)))), 0)
    high = min(math.ceil(index_of(float(scaling.get("beta_slow", 1.0)))), rope_dim - 1)
    # A band of no width would divide by zero; upstream widens it by the same amount.
    width = (high - low) or 0.001
    ramp = (torch.arange(rope_dim // 2, dtype=torch.float64) - low) / width
    return 1 - ramp.clamp(0, 1)
