"""Cases and inputs of ``varlen_attention``."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from hypothesis import strategies as st
from torch import Tensor

import reference
from harness.emulators import varlen_attention as emulator
from harness.operations.attention import REGIMES, query_key_value, windows
from harness.operations.base import Inputs, Operation, Output
from harness.operations.case import Case
from harness.operations.values import Values, cotangents, lengths, widths

__all__ = ["OPERATION", "VarlenAttentionCase"]

HEADS = ("token", "head", "channel")
OUTPUTS = (Output(name="out", axes=HEADS), Output(name="lse", axes=("head", "token"), wide=True, optional=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class VarlenAttentionCase(Case):
    """Packed sequences; a length of 0 is legal, but not for all of them."""

    op: ClassVar[str] = "varlen_attention"
    regimes: ClassVar[tuple[str, ...]] = REGIMES

    query_lengths: tuple[int, ...]
    key_lengths: tuple[int, ...]
    key_heads: int
    group: int
    head_dim: int
    value_dim: int
    window_left: int | None = None
    window_right: int | None = None
    sinks: bool = False
    scale: float | None = None

    def check(self) -> None:
        """Refuses sequences that do not pair, empty packs and negative windows."""
        self.paired("query_lengths", "key_lengths")
        for field in ("key_heads", "group", "head_dim", "value_dim"):
            self.at_least(field, 1)
        self.at_least("window_left", 0)
        self.at_least("window_right", 0)


def draw(largest: int) -> st.SearchStrategy[dict[str, Any]]:
    """Returns a strategy of shapes and options."""
    length = st.one_of(st.just(0), lengths(largest // 2))
    pair = st.one_of(length.map(lambda tokens: (tokens, tokens)), st.tuples(length, length))
    first = lengths(largest // 2).map(lambda tokens: (tokens, tokens))
    return st.builds(
        lambda first, pairs, window, rest: {
            "query_lengths": tuple(query for query, _ in [first, *pairs]),
            "key_lengths": tuple(key for _, key in [first, *pairs]),
            "window_left": window[0], "window_right": window[1], **rest,
        },
        first, st.lists(pair, min_size=0, max_size=3), windows(largest),
        st.fixed_dictionaries({
            "key_heads": st.integers(1, 2),
            "group": st.sampled_from([1, 2, 3]),
            "head_dim": widths(128),
            "value_dim": widths(128),
            "sinks": st.booleans(),
            "scale": st.sampled_from([None, None, 1.0]),
        }),
    )  # fmt: skip


def make(case: VarlenAttentionCase) -> Inputs:
    """Returns the inputs of a case."""
    values = Values(case)
    heads = case.key_heads * case.group
    queries, keys = sum(case.query_lengths), sum(case.key_lengths)
    tensors = query_key_value(values, case.regime, {
        "query": (queries, heads, case.head_dim),
        "key": (keys, case.key_heads, case.head_dim),
        "value": (keys, case.key_heads, case.value_dim),
    })  # fmt: skip
    tensors["cu_seqlens_q"] = _offsets(case.query_lengths)
    tensors["cu_seqlens_k"] = _offsets(case.key_lengths)
    if case.sinks:
        tensors["sinks"] = values.store(values.normal("sinks", (heads,), scale=3.0))
    return Inputs(
        tensors=tensors,
        options={
            "scale": case.head_dim**-0.5 if case.scale is None else case.scale,
            "window": (case.window_left, case.window_right),
        },
        cotangents=cotangents(case, OUTPUTS, {"out": (queries, heads, case.value_dim), "lse": (heads, queries)}),
    )


def _offsets(sequence_lengths: tuple[int, ...]) -> Tensor:
    return torch.tensor([0, *sequence_lengths]).cumsum(0).to(torch.int32)


OPERATION = Operation(
    case=VarlenAttentionCase,
    strategy=draw,
    inputs=make,
    reference=reference.varlen_attention,
    emulate=emulator.emulate,
    outputs=OUTPUTS,
    positional=("query", "key", "value", "cu_seqlens_q", "cu_seqlens_k"),
    directions=("scale",),
    axes={"query": HEADS, "key": HEADS, "value": HEADS, "sinks": ("head",)},
    call="varlen_attention(query, key, value, cu_seqlens_q, cu_seqlens_k, *, scale, window, sinks)",
)
