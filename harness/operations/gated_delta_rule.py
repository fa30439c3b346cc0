"""Cases and inputs of ``gated_delta_rule``."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from hypothesis import strategies as st
from torch import Tensor

import reference
from harness.emulators import gated_delta_rule as emulator
from harness.operations.base import Inputs, Operation, Output
from harness.operations.case import Case
from harness.operations.values import Values, cotangents, lengths, widths

__all__ = ["OPERATION", "GatedDeltaRuleCase"]

HEADS = ("batch", "token", "head", "channel")
GATES = ("batch", "token", "head")
STATE = ("batch", "head", "key_channel", "value_channel")
OUTPUTS = (Output(name="out", axes=HEADS), Output(name="final_state", axes=STATE, wide=True, optional=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedDeltaRuleCase(Case):
    """Value heads are ``key_heads * group``; ``sequence_lengths`` packs sequences and replaces ``tokens`` (batch 1)."""

    op: ClassVar[str] = "gated_delta_rule"
    regimes: ClassVar[tuple[str, ...]] = (
        "normal", "no_decay", "slow", "strong", "wide", "parallel_keys", "beta_one", "beta_zero", "two_valued",
    )  # fmt: skip

    batch: int
    tokens: int
    key_heads: int
    group: int
    key_dim: int
    value_dim: int
    log_decay: bool = True
    initial_state: bool = False
    normalize_qk: bool = False
    sequence_lengths: tuple[int, ...] = ()

    def check(self) -> None:
        """Refuses empty shapes and packed sequences that do not add up."""
        for field in ("batch", "tokens", "key_heads", "group", "key_dim", "value_dim"):
            self.at_least(field, 1)
        self.packed("sequence_lengths", "tokens")


def draw(largest: int) -> st.SearchStrategy[dict[str, Any]]:
    """Returns a strategy of shapes and options; one case in four packs sequences."""
    packs = st.lists(st.one_of(st.just(0), lengths(largest // 2)), min_size=1, max_size=3)
    head = st.one_of(widths(64).map(lambda width: (width, width)), st.tuples(widths(64), widths(64)))
    tokens = st.one_of(
        st.tuples(st.integers(1, 2), lengths(largest), st.just(())),
        st.tuples(st.integers(1, 2), lengths(largest), st.just(())),
        st.tuples(st.integers(1, 2), lengths(largest), st.just(())),
        st.tuples(lengths(largest // 2), packs).map(lambda pack: (1, pack[0] + sum(pack[1]), (pack[0], *pack[1]))),
    )
    return st.builds(
        lambda tokens, head, rest: {
            "batch": tokens[0], "tokens": tokens[1], "sequence_lengths": tokens[2],
            "key_dim": head[0], "value_dim": head[1], **rest,
        },
        tokens, head,
        st.fixed_dictionaries({
            "key_heads": st.integers(1, 2),
            "group": st.sampled_from([1, 2, 3]),
            "log_decay": st.sampled_from([True, True, True, False]),
            "initial_state": st.booleans(),
            "normalize_qk": st.booleans(),
        }),
    )  # fmt: skip


def make(case: GatedDeltaRuleCase) -> Inputs:
    """Returns the inputs of a case."""
    values = Values(case)
    heads, gates = case.key_heads * case.group, (case.batch, case.tokens, case.key_heads * case.group)
    keys = (case.batch, case.tokens, case.key_heads, case.key_dim)
    key = _keys(case, values, keys)
    query = values.normal("query", keys)
    if not case.normalize_qk:
        query = query / query.norm(dim=-1, keepdim=True)
    out = (case.batch, case.tokens, heads, case.value_dim)
    tensors = {
        "query": values.store(query),
        "key": values.store(key),
        "value": values.store(values.normal("value", out)),
        "beta": values.store(_beta(case, values, gates)),
    }
    if case.log_decay:
        tensors["log_decay"] = values.store(_log_decay(case, values, gates))
    sequences = len(case.sequence_lengths) or case.batch
    state = (sequences, heads, case.key_dim, case.value_dim)
    if case.initial_state:
        tensors["initial_state"] = values.store(values.normal("initial_state", state))
    if case.sequence_lengths:
        tensors["cu_seqlens"] = torch.tensor([0, *case.sequence_lengths]).cumsum(0).to(torch.int32)
    return Inputs(
        tensors=tensors,
        options={"scale": case.key_dim**-0.5, "normalize_qk": case.normalize_qk},
        cotangents=cotangents(case, OUTPUTS, {"out": out, "final_state": state}),
    )


def _keys(case: GatedDeltaRuleCase, values: Values, shape: tuple[int, ...]) -> Tensor:
    """Returns keys of length at most 1: with ``beta |k|^2`` above 2 the recurrence grows without bound."""
    key = values.normal("key", shape)
    if case.regime == "parallel_keys":
        key = values.normal("key.base", (shape[-1],)) + 0.05 * key
    elif case.regime == "two_valued":
        key = torch.sign(key)
    # A shade below 1, so that rounding to 8 bits cannot lift the length above it.
    return key if case.normalize_qk else key / key.norm(dim=-1, keepdim=True) * 0.98


def _log_decay(case: GatedDeltaRuleCase, values: Values, shape: tuple[int, ...]) -> Tensor:
    """Returns log decays of a regime; moderate ones forget over some ten tokens."""
    match case.regime:
        case "no_decay":
            return values.uniform("log_decay", shape, 0, 0)
        case "slow":
            return -values.uniform("log_decay", shape, 0, 2e-4)
        case "strong":
            return -values.uniform("log_decay", shape, 10, 40)
        case "wide":
            return -torch.exp(values.uniform("log_decay", shape, -9, 4))
        case _:
            return -values.uniform("log_decay", shape, 0, 0.2)


def _beta(case: GatedDeltaRuleCase, values: Values, shape: tuple[int, ...]) -> Tensor:
    """Returns write strengths of a regime, in (0, 1)."""
    match case.regime:
        case "beta_one":
            return values.uniform("beta", shape, 0.995, 1.0)
        case "beta_zero":
            return values.uniform("beta", shape, 0.0, 1e-3)
        case _:
            return torch.sigmoid(values.normal("beta", shape))


OPERATION = Operation(
    case=GatedDeltaRuleCase,
    strategy=draw,
    inputs=make,
    reference=reference.gated_delta_rule,
    emulate=emulator.emulate,
    outputs=OUTPUTS,
    positional=("query", "key", "value", "log_decay", "beta"),
    tiles=(8, 24, 64, 128),  # a token that ended a chunk in all of them would err too little
    samples=32,
    directions=("scale", "log_decay", "beta"),
    axes={
        "query": HEADS, "key": HEADS, "value": HEADS, "log_decay": GATES, "beta": GATES, "initial_state": STATE,
    },
    call="gated_delta_rule(query, key, value, log_decay, beta, *, scale, initial_state=None, normalize_qk=False, "
    "cu_seqlens=None)",
)  # fmt: skip
