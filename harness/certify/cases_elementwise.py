"""Cases of the element-wise and norm operations; every function draws them from the number of their series.

Letters: B batch, T tokens, C channels, H heads, K taps of a convolution, R rotated width.
"""

from collections.abc import Callable

import numpy as np

from harness.certify.case import Case, Draw, Numbers

__all__ = ["CASES"]


def _rows(draw: Draw) -> dict[str, Numbers]:
    """Returns (2, 3, 4) inputs of a norm by regime."""
    zero, outlier = draw.normal(2, 3, 4), draw.normal(2, 3, 4)
    zero[0, 1] = 0.0
    zero[1, 2, :3] = 0.0
    outlier[..., 1] *= 1e6
    return {
        "normal": draw.normal(2, 3, 4),
        "zero rows": zero,
        "tiny": draw.normal(2, 3, 4, scale=1e-4),
        "massive channel": outlier,
        "mean-shifted": draw.normal(2, 3, 4) + 100.0,
    }


def _rms_norm(series: int) -> list[Case]:
    draw = Draw(series, 1)
    return [
        Case(
            op="rms_norm",
            regime=f"{regime}, zero_centered={zero_centered}",
            inputs={"x": x, "weight": draw.normal(4)},
            arguments=("x", "weight"),
            options={"eps": 1e-6, "zero_centered": zero_centered},
            seed=(series, 1),
        )
        for regime, x in _rows(draw).items()
        for zero_centered in (False, True)
    ]


def _gated_rms_norm(series: int) -> list[Case]:
    draw = Draw(series, 9)
    rows = {f"{regime}, normal gate": (x, draw.normal(*x.shape)) for regime, x in _rows(draw).items()}
    far = np.tile(_far(draw), 2).reshape(1, 7, 4)
    pairs = {**rows, "normal, far gate": (draw.normal(*far.shape), far)}
    return [
        Case(
            op="gated_rms_norm",
            regime=f"{regime}, zero_centered={zero_centered}",
            inputs={"x": x, "gate": gate, "weight": draw.normal(4)},
            arguments=("x", "gate", "weight"),
            options={"eps": 1e-6, "zero_centered": zero_centered},
            seed=(series, 10),
        )
        for regime, (x, gate) in pairs.items()
        for zero_centered in (False, True)
    ]


def _l2_norm(series: int) -> list[Case]:
    return [
        Case(op="l2_norm", regime=regime, inputs={"x": x}, arguments=("x",), options=options, seed=(series, 2))
        for regime, x in _rows(Draw(series, 2)).items()
        for options in ({}, {"eps": 1e-3})
    ]


def _rope(series: int) -> list[Case]:
    draw = Draw(series, 3)
    return [
        Case(
            op="rope",
            regime=f"{style}, R={R}",
            inputs={"x": draw.normal(2, 3, 2, R), "cos": draw.normal(2, 3, R), "sin": draw.normal(2, 3, R)},
            arguments=("x", "cos", "sin"),
            options={"style": style},
            seed=(series, 3),
        )
        for style in ("half", "interleaved")
        for R in (2, 6)
    ]


_YARN = {"type": "yarn", "factor": 4.0, "original_max_position": 4096}
_SCALINGS = {
    "none": None,
    "linear": {"type": "linear", "factor": 3.0},
    "ntk": {"type": "ntk", "factor": 2.5},
    "yarn": _YARN,
    "yarn, all set": {**_YARN, "beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.25},
    "yarn, equal bounds": {**_YARN, "original_max_position": 8},
}


def _rope_tables(series: int) -> list[Case]:
    far = Draw(series, 4).uniform(0, 2**20, 5).astype(np.int64)
    positions = np.stack([np.array([0, 1, 63, 4095, 2**20]), far])
    return [
        Case(
            op="rope_tables",
            regime=f"{style}, R={R}, base={base:g}, {name}",
            constants={"positions": positions},
            arguments=("positions",),
            options={"rope_dim": R, "base": base, "style": style, "scaling": scaling},
        )
        for R, base in ((8, 10000.0), (14, 500000.0))
        for style in ("half", "interleaved")
        for name, scaling in _SCALINGS.items()
    ]


def _short_conv(series: int) -> list[Case]:
    draw = Draw(series, 5)
    shapes = {"T > K": (5, 4), "T < K": (2, 4), "T = 1": (1, 3), "K = 1": (3, 1)}
    cases = [
        Case(
            op="short_conv",
            regime=regime,
            inputs={"x": draw.normal(2, T, 3), "weight": draw.normal(3, K)},
            arguments=("x", "weight"),
            seed=(series, 5),
        )
        for regime, (T, K) in shapes.items()
    ]
    masked = Case(
        op="short_conv",
        regime="mask",
        inputs={"x": draw.normal(2, 6, 3, scale=4.0), "weight": draw.normal(3, 3)},
        constants={"mask": draw.mask(2, 6)},
        arguments=("x", "weight"),
        keywords=("mask",),
        seed=(series, 6),
    )
    return [*cases, masked]


def _far(draw: Draw) -> Numbers:
    """Returns numbers from all over the range of an activation: saturated, tiny, and where silu is flat."""
    marks = [-700.0, -88.5, -40.0, -36.7, -20.0, -1.28, 0.0, 1e-9, 5.0, 17.0, 36.5, 40.0, 88.5, 700.0]
    return np.array(marks) * draw.uniform(0.99, 1.01, len(marks))


def _silu_mul(series: int) -> list[Case]:
    draw = Draw(series, 6)
    gates = {"normal": draw.normal(2, 3, 4), "far": _far(draw), "saturating": draw.uniform(30.0, 40.0, 40)}
    return [
        Case(
            op="silu_mul",
            regime=regime,
            inputs={"gate": gate, "x": draw.normal(*gate.shape)},
            arguments=("gate", "x"),
            seed=(series, 7),
        )
        for regime, gate in gates.items()
    ]


def _mamba_decay(series: int) -> list[Case]:
    draw = Draw(series, 7)
    regimes = {
        "normal": draw.normal(2, 3, 3),
        "x = -40": draw.uniform(-40.5, -39.5, 2, 3, 3),
        "far": _far(draw)[:, None, None] + np.zeros((1, 2, 3)),
    }
    return [
        Case(
            op="mamba_decay",
            regime=regime,
            inputs={"x": x, "a_log": draw.normal(3), "dt_bias": draw.normal(3)},
            arguments=("x", "a_log", "dt_bias"),
            seed=(series, 8),
        )
        for regime, x in regimes.items()
    ]


def _log_sigmoid_decay(series: int) -> list[Case]:
    draw = Draw(series, 8)
    return [
        Case(
            op="log_sigmoid_decay",
            regime=f"{regime}, normalizer={normalizer:g}",
            inputs={"x": x},
            arguments=("x",),
            options={"normalizer": normalizer},
            seed=(series, 9),
        )
        for regime, x in (("normal", draw.normal(2, 3, 3)), ("far", _far(draw)[None, :, None]))
        for normalizer in (1.0, 16.0)
    ]


CASES: dict[str, Callable[[int], list[Case]]] = {
    "rms_norm": _rms_norm,
    "gated_rms_norm": _gated_rms_norm,
    "l2_norm": _l2_norm,
    "rope": _rope,
    "rope_tables": _rope_tables,
    "short_conv": _short_conv,
    "silu_mul": _silu_mul,
    "mamba_decay": _mamba_decay,
    "log_sigmoid_decay": _log_sigmoid_decay,
}
