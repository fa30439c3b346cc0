"""Cases of softmax attention; every function draws them from the number of their series.

Letters: B batch, T query tokens, S key tokens, H query heads, G key/value heads, D query/key width, V value width.
"""

from collections.abc import Callable

import numpy as np

from harness.certify.case import Case, Draw, Numbers

__all__ = ["CASES"]

Window = tuple[int | None, int | None]

_EVERYWHERE: Window = (None, None)
_CAUSAL: Window = (None, 0)
_SMALL = (1, 3, 5, 2, 1, 3, 2)
_TALL = (1, 5, 3, 2, 1, 3, 2)


def _case(
    regime: str,
    draw: Draw,
    *,
    shape: tuple[int, int, int, int, int, int, int] = _SMALL,
    window: Window = _EVERYWHERE,
    sinks: bool = False,
    key_mask: Numbers | None = None,
    bias: Numbers | None = None,
    **replaced: Numbers,
) -> Case:
    """Returns a case of shape (B, T, S, H, G, D, V); ``replaced`` are inputs that are not to be normal."""
    B, T, S, H, G, D, V = shape
    inputs = {
        "query": draw.normal(B, T, H, D),
        "key": draw.normal(B, S, G, D),
        "value": draw.normal(B, S, G, V),
    }
    if sinks:
        inputs["sinks"] = draw.normal(H)
    if bias is not None:
        inputs["bias"] = bias
    constants = {} if key_mask is None else {"key_mask": key_mask}
    return Case(
        op="attention",
        regime=regime,
        inputs=inputs | replaced,
        constants=constants,
        arguments=("query", "key", "value"),
        keywords=tuple(name for name in ("sinks", "bias", "key_mask") if name in inputs or name in constants),
        options={"scale": float(D) ** -0.5, "window": window},
        seed=(len(regime), T, S),
    )


def _structures(draw: Draw) -> list[Case]:
    """Who sees whom: windows, masks, hidden rows, shared heads."""
    mask = np.array([[True, False, True, True, False], [False, False, False, False, False]])
    hiding = draw.normal(1, 2, 3, 5)
    hiding[0, 0, 1] = -np.inf
    hiding[0, :, 2, 1:4] = -np.inf
    everything = draw.normal(2, 1, 4, 6)
    everything[1, 0, 2, 3:] = -np.inf
    return [
        _case("plain, V > D", draw, shape=(2, 3, 4, 2, 2, 2, 3)),
        _case("causal, T = S, sinks", draw, shape=(1, 5, 5, 4, 2, 3, 3), window=_CAUSAL, sinks=True),
        _case("causal, T < S", draw, window=_CAUSAL),
        _case("causal, T > S: hidden rows", draw, shape=_TALL, window=_CAUSAL),
        _case("hidden rows with sinks", draw, shape=_TALL, window=_CAUSAL, sinks=True),
        _case("sliding window", draw, shape=(1, 5, 6, 3, 1, 3, 2), window=(2, 0), sinks=True),
        _case("two-sided window", draw, shape=(1, 5, 5, 2, 1, 3, 4), window=(1, 2)),
        _case("window of the token alone", draw, shape=(1, 4, 4, 2, 1, 3, 2), window=(0, 0)),
        _case("key mask, one batch hidden", draw, shape=(2, 3, 5, 2, 1, 3, 2), key_mask=mask),
        _case("bias that hides", draw, bias=hiding, sinks=True),
        _case("bias per head, broadcast", draw, shape=(2, 3, 5, 2, 1, 3, 2), bias=draw.normal(1, 2, 1, 5)),
        _case(
            "everything at once",
            draw,
            shape=(2, 4, 6, 6, 2, 3, 2),
            window=(3, 1),
            sinks=True,
            key_mask=draw.mask(2, 6),
            bias=everything,
        ),
        _case("one key", draw, shape=(1, 2, 1, 2, 1, 3, 2)),
    ]


def _regimes(draw: Draw) -> list[Case]:
    """Which numbers: peaky, flat, far away."""
    far_key = draw.normal(1, 5, 1, 3)
    far_key[0, :4] -= 60.0
    return [
        _case("peaky", draw, query=draw.normal(1, 3, 2, 3, scale=60.0), sinks=True),
        _case("flat", draw, query=draw.normal(1, 3, 2, 3, scale=1e-3)),
        _case("two-valued", draw, query=draw.signs(1, 3, 2, 3), key=draw.signs(1, 5, 1, 3)),
        _case("huge negative logits", draw, query=np.abs(draw.normal(1, 3, 2, 3)), key=far_key),
        _case("all logits far below the sink", draw, bias=np.full((1, 1, 3, 5), -60.0), sinks=True),
        _case("all logits near -1000", draw, bias=np.full((1, 2, 3, 5), -1000.0)),
        _case("all logits near +1000", draw, bias=np.full((1, 2, 3, 5), 1000.0), sinks=True),
        _case("zero queries", draw, query=np.zeros((1, 3, 2, 3)), sinks=True),
        _case("massive value", draw, value=draw.normal(1, 5, 1, 2) * np.array([1.0, 1e6])),
        _case("near-parallel keys", draw, key=draw.normal(1, 1, 1, 3) + draw.normal(1, 5, 1, 3, scale=1e-6)),
    ]


def _attention(series: int) -> list[Case]:
    draw = Draw(series, 20)
    return _structures(draw) + _regimes(draw)


def _varlen_attention(series: int) -> list[Case]:
    draw = Draw(series, 21)
    return [
        _varlen_case("causal, an empty sequence", draw, (3, 0, 2, 1), (3, 0, 4, 1), window=_CAUSAL, sinks=True),
        _varlen_case("sliding window", draw, (4, 3), (4, 5), window=(1, 0)),
        _varlen_case("a sequence without keys", draw, (2, 2), (3, 0)),
        _varlen_case("a sequence without queries", draw, (2, 0), (2, 3), window=_CAUSAL, sinks=True),
        _varlen_case("T > S", draw, (4, 1), (2, 2), window=_CAUSAL, sinks=True),
    ]


def _varlen_case(
    regime: str,
    draw: Draw,
    query_lengths: tuple[int, ...],
    key_lengths: tuple[int, ...],
    *,
    window: Window = _EVERYWHERE,
    sinks: bool = False,
) -> Case:
    inputs = {
        "query": draw.normal(sum(query_lengths), 4, 3),
        "key": draw.normal(sum(key_lengths), 2, 3),
        "value": draw.normal(sum(key_lengths), 2, 2),
    }
    if sinks:
        inputs["sinks"] = draw.normal(4)
    return Case(
        op="varlen_attention",
        regime=regime,
        inputs=inputs,
        constants={
            "cu_seqlens_q": np.cumsum([0, *query_lengths]).astype(np.int32),
            "cu_seqlens_k": np.cumsum([0, *key_lengths]).astype(np.int32),
        },
        arguments=("query", "key", "value", "cu_seqlens_q", "cu_seqlens_k"),
        keywords=("sinks",) if sinks else (),
        options={"scale": 0.6, "window": window},
        seed=(len(regime),),
    )


CASES: dict[str, Callable[[int], list[Case]]] = {
    "attention": _attention,
    "varlen_attention": _varlen_attention,
}
