"""Cases and inputs of ``attention``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from hypothesis import strategies as st
from torch import Tensor

import reference
from harness.emulators import attention as emulator
from harness.operations.base import Inputs, Operation, Output
from harness.operations.case import Case
from harness.operations.values import Values, cotangents, lengths, widths

__all__ = ["OPERATION", "REGIMES", "AttentionCase", "query_key_value", "windows"]

HEADS = ("batch", "token", "head", "channel")
OUTPUTS = (
    Output(name="out", axes=HEADS),
    Output(name="lse", axes=("batch", "head", "token"), wide=True, optional=True),
)
BIASES = ("none", "full", "head", "key")
REGIMES: tuple[str, ...] = (
    "normal", "peaky", "flat", "two_valued", "massive", "low_rank", "mean_shifted", "negative", "equal", "zero_rows",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionCase(Case):
    """Query heads are ``key_heads * group``; ``scale`` None means ``head_dim ** -0.5``."""

    op: ClassVar[str] = "attention"
    regimes: ClassVar[tuple[str, ...]] = REGIMES

    batch: int
    query_tokens: int
    key_tokens: int
    key_heads: int
    group: int
    head_dim: int
    value_dim: int
    window_left: int | None = None
    window_right: int | None = None
    sinks: bool = False
    key_mask: bool = False
    bias: str = "none"
    scale: float | None = None

    def check(self) -> None:
        """Refuses empty shapes, negative windows and an unknown bias."""
        for field in ("batch", "query_tokens", "key_tokens", "key_heads", "group", "head_dim", "value_dim"):
            self.at_least(field, 1)
        self.at_least("window_left", 0)
        self.at_least("window_right", 0)
        self.one_of("bias", BIASES)


def windows(largest: int) -> st.SearchStrategy[tuple[int | None, int | None]]:
    """Returns a strategy of windows; causal weighs as much as none and as all others."""
    side = st.one_of(st.none(), st.sampled_from([0, 1, 2, 3]), st.integers(0, 2 * largest))
    return st.one_of(st.just((None, None)), st.just((None, 0)), st.tuples(side, st.just(0)), st.tuples(side, side))


def draw(largest: int) -> st.SearchStrategy[dict[str, Any]]:
    """Returns a strategy of shapes and options."""
    same = lengths(largest).map(lambda tokens: (tokens, tokens))
    tokens = st.one_of(same, st.tuples(lengths(largest), lengths(largest)))
    head = st.one_of(widths(128).map(lambda width: (width, width)), st.tuples(widths(128), widths(128)))
    return st.builds(
        lambda tokens, head, window, rest: {
            "query_tokens": tokens[0], "key_tokens": tokens[1], "head_dim": head[0], "value_dim": head[1],
            "window_left": window[0], "window_right": window[1], **rest,
        },
        tokens, head, windows(largest),
        st.fixed_dictionaries({
            "batch": st.integers(1, 2),
            "key_heads": st.integers(1, 2),
            "group": st.sampled_from([1, 2, 3, 5]),
            "sinks": st.booleans(),
            "key_mask": st.booleans(),
            "bias": st.sampled_from(["none", "none", "none", "none", *BIASES[1:]]),
            "scale": st.sampled_from([None, None, None, 1.0, 0.25]),
        }),
    )  # fmt: skip


def query_key_value(
    values: Values, regime: str, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:  # fmt: skip
    """Returns ``query, key, value`` in float64 for a regime; the last two axes of a shape are head and channel."""
    query = values.normal("query", shapes["query"])
    key = values.normal("key", shapes["key"])
    value = values.normal("value", shapes["value"])
    match regime:
        case "peaky":
            query = query * 6
        case "flat":
            query = query * 1e-2
        case "two_valued":
            # every key is plus or minus one vector: each row of scores has two values, its weights too
            key = values.normal("key.base", key.shape[-1:]) * torch.sign(
                values.normal("key.sign", (*key.shape[:-1], 1))
            )
        case "massive":
            key = values.kind("key", key.shape, "massive")
        case "low_rank":
            key = values.kind("key", key.shape, "low_rank")
        case "mean_shifted":
            value = value + 4
        case "negative":
            base = torch.sign(values.normal("base", key.shape[-1:]))
            span = key.shape[-1] ** 0.5
            query = query - 40 * base if query.shape[-1] == key.shape[-1] else query
            key = key + 200 * base / span
        case "equal":
            key = values.kind("key", key.shape, "equal")
        case "zero_rows":
            query = values.kind("query", query.shape, "zero_rows")
            value = values.kind("value", value.shape, "zero_rows")
    return {"query": values.store(query), "key": values.store(key), "value": values.store(value)}


def make(case: AttentionCase) -> Inputs:
    """Returns the inputs of a case."""
    values = Values(case)
    heads = case.key_heads * case.group
    out = (case.batch, case.query_tokens, heads, case.value_dim)
    tensors = query_key_value(values, case.regime, {
        "query": (case.batch, case.query_tokens, heads, case.head_dim),
        "key": (case.batch, case.key_tokens, case.key_heads, case.head_dim),
        "value": (case.batch, case.key_tokens, case.key_heads, case.value_dim),
    })  # fmt: skip
    if case.sinks:
        tensors["sinks"] = values.store(values.normal("sinks", (heads,), scale=3.0))
    if case.key_mask:
        tensors["key_mask"] = values.mask("key_mask", (case.batch, case.key_tokens))
    if case.bias != "none":
        tensors["bias"] = _bias(case, values, heads)
    return Inputs(
        tensors=tensors,
        options={
            "scale": case.head_dim**-0.5 if case.scale is None else case.scale,
            "window": (case.window_left, case.window_right),
        },
        cotangents=cotangents(case, OUTPUTS, {"out": out, "lse": (case.batch, heads, case.query_tokens)}),
    )


def _bias(case: AttentionCase, values: Values, heads: int) -> Tensor:
    """Returns an additive bias, one entry in ten -inf."""
    shapes = {
        "full": (case.batch, heads, case.query_tokens, case.key_tokens),
        "head": (1, heads, case.query_tokens, case.key_tokens),
        "key": (case.batch, 1, 1, case.key_tokens),
    }
    bias = values.normal("bias", shapes[case.bias])
    hidden = values.uniform("bias.hidden", shapes[case.bias], 0, 1) < 0.1
    return values.store(bias.masked_fill(hidden, -torch.inf))


OPERATION = Operation(
    case=AttentionCase,
    strategy=draw,
    inputs=make,
    reference=reference.attention,
    emulate=emulator.emulate,
    outputs=OUTPUTS,
    positional=("query", "key", "value"),
    directions=("scale",),
    axes={
        "query": HEADS, "key": HEADS, "value": HEADS, "sinks": ("head",), "bias": ("batch", "head", "token", "key"),
    },
    call="attention(query, key, value, *, scale, window=(None, None), sinks=None, key_mask=None, bias=None)",
)  # fmt: skip
