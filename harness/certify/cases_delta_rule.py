"""Cases of the gated delta rule, drawn from the number of their series.

Letters: B batch, T tokens, H value heads, G query/key heads, D query/key width, V value width.
"""

from collections.abc import Callable

import numpy as np

from harness.certify.case import Case, Draw, Numbers

__all__ = ["CASES"]


def _case(
    regime: str,
    draw: Draw,
    *,
    shape: tuple[int, int, int, int, int, int] = (1, 6, 2, 1, 3, 2),
    log_decay: tuple[float, float] | None = (-0.5, -0.01),
    beta: tuple[float, float] = (0.05, 0.95),
    initial_state: bool = True,
    normalize_qk: bool = True,
    cu_seqlens: Numbers | None = None,
    **replaced: Numbers,
) -> Case:
    """Returns a case of shape (B, T, H, G, D, V) with log decays and betas from the given intervals."""
    B, T, H, G, D, V = shape
    inputs = {
        "query": draw.normal(B, T, G, D),
        "key": draw.normal(B, T, G, D, scale=1.0 if normalize_qk else float(D) ** -0.5),
        "value": draw.normal(B, T, H, V),
        "beta": draw.uniform(*beta, B, T, H),
    }
    if log_decay is not None:
        inputs["log_decay"] = draw.uniform(*log_decay, B, T, H)
    if initial_state:
        inputs["initial_state"] = draw.normal(B if cu_seqlens is None else len(cu_seqlens) - 1, H, D, V)
    constants = {} if cu_seqlens is None else {"cu_seqlens": cu_seqlens}
    return Case(
        op="gated_delta_rule",
        regime=regime,
        inputs=inputs | replaced,
        constants=constants,
        arguments=("query", "key", "value", None if log_decay is None else "log_decay", "beta"),
        keywords=tuple(name for name in ("initial_state", "cu_seqlens") if name in inputs or name in constants),
        options={"scale": float(D) ** -0.5, "normalize_qk": normalize_qk},
        seed=(len(regime), T),
    )


def _gated_delta_rule(series: int) -> list[Case]:
    draw = Draw(series, 30)
    near_parallel = draw.normal(1, 1, 1, 3) + draw.normal(1, 6, 1, 3, scale=1e-3)
    zero_key = draw.normal(1, 6, 1, 3)
    zero_key[0, 2] = 0.0
    packed = np.array([0, 3, 3, 4, 7], dtype=np.int32)
    return [
        _case("GQA, V > D", draw, shape=(2, 5, 4, 2, 2, 3)),
        _case("long", draw, shape=(1, 12, 1, 1, 3, 2)),
        _case("not normalised, no state", draw, normalize_qk=False, initial_state=False),
        _case("plain delta rule", draw, log_decay=None),
        _case("packed, an empty sequence", draw, shape=(1, 7, 2, 1, 3, 2), cu_seqlens=packed),
        _case("packed, no states", draw, shape=(1, 7, 2, 2, 2, 2), cu_seqlens=packed, initial_state=False),
        _case("strong decay", draw, log_decay=(-100.0, -40.0)),
        _case("no decay, beta near 1", draw, log_decay=(-1e-4, 0.0), beta=(0.999, 1.0)),
        _case("beta near 0", draw, beta=(0.0, 1e-6)),
        _case("near-parallel keys", draw, key=near_parallel, beta=(0.9, 1.0)),
        _case("a zero key", draw, key=zero_key),
        _case("T = 1", draw, shape=(2, 1, 2, 2, 2, 2)),
        _case("zero beta", draw, beta=(0.0, 0.0), log_decay=(0.0, 0.0)),
        _case("beta |k|^2 > 2", draw, normalize_qk=False, key=draw.normal(1, 6, 1, 3, scale=2.0), beta=(0.9, 1.0)),
    ]


CASES: dict[str, Callable[[int], list[Case]]] = {"gated_delta_rule": _gated_delta_rule}
