"""The element-wise and norm operations in balls, written from their definitions and not from `reference/`.

Every function has the call of the operation with arrays of Balls for tensors.
Letters: B batch, T tokens, C channels, H heads, K taps of a convolution, R rotated width.
"""

from collections.abc import Mapping
from typing import Any

import flint
import numpy as np

from harness.certify.balls import Array, Ball, constant, exp, filled, normaliser, silu, softplus, sqrt

__all__ = [
    "gated_rms_norm",
    "l2_norm",
    "linear",
    "log_sigmoid_decay",
    "mamba_decay",
    "rms_norm",
    "rope",
    "rope_tables",
    "short_conv",
    "silu_mul",
]


def linear(x: Array, weight: Array) -> Array:
    """Returns ``x @ weight^T`` for a weight of shape (out, in)."""
    return x @ weight.T


def rms_norm(x: Array, weight: Array, *, eps: float, zero_centered: bool = False) -> Array:
    """Returns ``x / sqrt(mean(x^2) + eps) * weight``, or ``* (1 + weight)``."""
    mean_square = (x * x).sum(axis=-1, keepdims=True) / x.shape[-1]
    root: Array = normaliser(sqrt(mean_square + eps))
    factor: Array = weight + 1 if zero_centered else weight
    return x / root * factor


def gated_rms_norm(x: Array, gate: Array, weight: Array, *, eps: float, zero_centered: bool = False) -> Array:
    """Returns ``silu(gate) * x / sqrt(mean(x^2) + eps) * weight``, or ``* (1 + weight)``."""
    return silu(gate) * rms_norm(x, weight, eps=eps, zero_centered=zero_centered)


def l2_norm(x: Array, *, eps: float = 1e-6) -> Array:
    """Returns ``x / sqrt(sum(x^2) + eps)``."""
    root: Array = normaliser(sqrt((x * x).sum(axis=-1, keepdims=True) + eps))
    return x / root


def rope(x: Array, cos: Array, sin: Array, *, style: str) -> Array:
    """Returns x (B, T, H, R) rotated pair by pair with tables (B, T, R)."""
    R = x.shape[-1]
    first, second = _pairs(R, style)
    rotated = np.empty_like(x)
    rotated[..., first] = -x[..., second]
    rotated[..., second] = x[..., first]
    turned: Array = x * cos[:, :, None, :] + rotated * sin[:, :, None, :]
    return turned


def _pairs(R: int, style: str) -> tuple[list[int], list[int]]:
    if style == "half":
        return list(range(R // 2)), list(range(R // 2, R))
    return list(range(0, R, 2)), list(range(1, R, 2))


def rope_tables(
    positions: Array, *, rope_dim: int, base: float, style: str, scaling: Mapping[str, Any] | None = None
) -> dict[str, Array]:
    """Returns cosine and sine (..., R) of ``position * frequency_i``; the pair i owns two columns by style.

    Positions are integers, which no rounding moves. What the condition counts as the input is the angle after whole
    turns are taken off, as one radian at most, so that a table at position 2^20 has to be as accurate as one near 0.
    """
    columns = list(zip(*_pairs(rope_dim, style), strict=True))
    frequencies, magnitude = _frequencies(rope_dim, flint.arb(base), scaling)
    cos, sin = filled((*positions.shape, rope_dim)), filled((*positions.shape, rope_dim))
    for index, position in np.ndenumerate(positions):
        for pair, frequency in enumerate(frequencies):
            angle = flint.arb(int(position)) * frequency
            x, y = constant(magnitude * angle.cos()), constant(magnitude * angle.sin())
            moved = Ball(min(abs(angle), flint.arb(1)), is_counted=True)
            for column in columns[pair]:
                cos[(*index, column)] = Ball(x.value, ((moved, -y),))
                sin[(*index, column)] = Ball(y.value, ((moved, x),))
    return {"cos": cos, "sin": sin}


def _frequencies(R: int, base: flint.arb, scaling: Mapping[str, Any] | None) -> tuple[list[flint.arb], flint.arb]:
    plain = [base ** (flint.arb(-2 * pair) / R) for pair in range(R // 2)]
    if scaling is None:
        return plain, flint.arb(1)
    factor = flint.arb(scaling["factor"])
    if scaling["type"] == "linear":
        return [frequency / factor for frequency in plain], flint.arb(1)
    if scaling["type"] == "ntk":
        stretched = base * factor ** (flint.arb(R) / (R - 2))
        return [stretched ** (flint.arb(-2 * pair) / R) for pair in range(R // 2)], flint.arb(1)
    return _yarn(plain, R, base, scaling)


def _yarn(
    plain: list[flint.arb], R: int, base: flint.arb, scaling: Mapping[str, Any]
) -> tuple[list[flint.arb], flint.arb]:
    """Blends plain and interpolated frequencies between the pairs that turn beta_fast and beta_slow times."""
    factor = flint.arb(scaling["factor"])
    original = scaling["original_max_position"]

    def pair_of(turns: float) -> flint.arb:
        return R * (flint.arb(original) / (2 * flint.arb.pi() * flint.arb(turns))).log() / (2 * base.log())

    low = max(_integer(pair_of(scaling.get("beta_fast", 32.0)).floor()), 0)
    high = min(_integer(pair_of(scaling.get("beta_slow", 1.0)).ceil()), R - 1)
    frequencies = []
    for pair, frequency in enumerate(plain):
        if high == low:
            interpolated = flint.arb(1 if pair > low else 0)
        else:
            interpolated = flint.arb(min(max(pair - low, 0), high - low)) / (high - low)
        frequencies.append(frequency * (1 - interpolated) + frequency / factor * interpolated)
    magnitude = scaling.get("attention_factor")
    return frequencies, flint.arb(magnitude) if magnitude is not None else factor.log() / 10 + 1


def _integer(ball: flint.arb) -> int:
    """Returns the one integer in a ball.

    Raises:
        ArithmeticError: there is none, or more than one: the working precision does not decide a rounding.
    """
    integer = ball.unique_fmpz()
    if integer is None:
        raise ArithmeticError(f"ball: got {ball}, expected exactly one integer inside")
    return int(integer)


def short_conv(x: Array, weight: Array, *, mask: Array | None = None) -> Array:
    """Returns ``silu(sum_j weight[c, j] x[b, t - (K - 1) + j, c])`` with zeros before the start."""
    T, K = x.shape[1], weight.shape[1]
    kept = x if mask is None else np.where(mask[:, :, None], x, filled(x.shape))
    sums = filled(x.shape)
    for token in range(T):
        for tap in range(max(0, K - 1 - token), K):
            sums[:, token] = sums[:, token] + kept[:, token - (K - 1) + tap] * weight[:, tap]
    return silu(sums)


def silu_mul(gate: Array, x: Array) -> Array:
    """Returns ``silu(gate) * x``."""
    return silu(gate) * x


def mamba_decay(x: Array, a_log: Array, dt_bias: Array) -> Array:
    """Returns ``-exp(a_log) * softplus(x + dt_bias)`` for x (B, T, H)."""
    rates: Array = exp(a_log)
    steps: Array = softplus(x + dt_bias)
    return -(rates * steps)


def log_sigmoid_decay(x: Array, *, normalizer: float) -> Array:
    """Returns ``log(sigmoid(x)) / normalizer``."""
    positive: Array = softplus(-x)
    return -positive / normalizer
