"""Cases and inputs of the layer ``flash_sdpa``."""

from dataclasses import dataclass
from typing import Any, ClassVar

from hypothesis import strategies as st

import reference
from harness.emulators import flash_sdpa as emulator
from harness.errors import UsageError
from harness.operations.attention import REGIMES, query_key_value
from harness.operations.base import Inputs, Operation, Output
from harness.operations.case import Case
from harness.operations.values import Values, cotangents, lengths, widths

__all__ = ["OPERATION", "FlashSdpaCase"]

HEADS = ("batch", "token", "head", "channel")
OUTPUTS = (Output(name="out", axes=HEADS),)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlashSdpaCase(Case):
    """Query heads are ``key_heads * group``; a window needs ``is_causal``."""

    op: ClassVar[str] = "flash_sdpa"
    regimes: ClassVar[tuple[str, ...]] = REGIMES

    batch: int
    query_tokens: int
    key_tokens: int
    key_heads: int
    group: int
    head_dim: int
    value_dim: int
    is_causal: bool = True
    window_size: int | None = None
    sinks: bool = False
    key_mask: bool = False

    def check(self) -> None:
        """Refuses empty shapes, negative windows and a window that is not causal."""
        for field in ("batch", "query_tokens", "key_tokens", "key_heads", "group", "head_dim", "value_dim"):
            self.at_least(field, 1)
        self.at_least("window_size", 0)
        if self.window_size is not None and not self.is_causal:
            raise UsageError(
                f"flash_sdpa case, window_size: got {self.window_size} with is_causal=False, expected True"
            )


def draw(largest: int) -> st.SearchStrategy[dict[str, Any]]:
    """Returns a strategy of shapes and options."""
    same = lengths(largest).map(lambda tokens: (tokens, tokens))
    kinds = st.one_of(
        st.sampled_from([(True, None), (False, None)]),
        st.tuples(st.just(True), st.one_of(st.sampled_from([0, 1, 2]), st.integers(0, largest))),  # noqa: FBT003
    )
    return st.builds(
        lambda tokens, kind, rest: {
            "query_tokens": tokens[0], "key_tokens": tokens[1], "is_causal": kind[0], "window_size": kind[1], **rest,
        },
        st.one_of(same, st.tuples(lengths(largest), lengths(largest))), kinds,
        st.fixed_dictionaries({
            "batch": st.integers(1, 2),
            "key_heads": st.integers(1, 2),
            "group": st.sampled_from([1, 2, 3]),
            "head_dim": widths(72),
            "value_dim": widths(72),
            "sinks": st.booleans(),
            "key_mask": st.booleans(),
        }),
    )  # fmt: skip


def make(case: FlashSdpaCase) -> Inputs:
    """Returns the inputs of a case; sinks are random, though a fresh layer has zeros."""
    values = Values(case)
    heads = case.key_heads * case.group
    states = query_key_value(values, case.regime, {
        "query": (case.batch, case.query_tokens, heads, case.head_dim),
        "key": (case.batch, case.key_tokens, case.key_heads, case.head_dim),
        "value": (case.batch, case.key_tokens, case.key_heads, case.value_dim),
    })  # fmt: skip
    tensors = {f"{name}_states": tensor for name, tensor in states.items()}
    if case.key_mask:
        tensors["attention_mask"] = values.mask("attention_mask", (case.batch, case.key_tokens))
    if case.sinks:
        tensors["sinks"] = values.store(values.normal("sinks", (heads,), scale=3.0))
    out = (case.batch, case.query_tokens, heads, case.value_dim)
    return Inputs(
        tensors=tensors,
        options={
            "is_causal": case.is_causal, "scale": case.head_dim**-0.5,
            "num_sinks": heads if case.sinks else None, "window_size": case.window_size,
        },
        cotangents=cotangents(case, OUTPUTS, {"out": out}),
    )  # fmt: skip


OPERATION = Operation(
    case=FlashSdpaCase,
    strategy=draw,
    inputs=make,
    reference=reference.flash_sdpa,
    emulate=emulator.emulate,
    outputs=OUTPUTS,
    positional=("query_states", "key_states", "value_states", "attention_mask"),
    is_layer=True,
    directions=("scale",),
    axes={"query_states": HEADS, "key_states": HEADS, "value_states": HEADS, "sinks": ("head",)},
    call="flash_sdpa(query_states, key_states, value_states, attention_mask, parameters, *, is_causal, scale, "
    "num_sinks=None, window_size=None)",
)
