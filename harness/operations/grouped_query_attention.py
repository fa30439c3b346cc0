"""Cases and inputs of the layer ``grouped_query_attention``."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from hypothesis import strategies as st

import reference
from harness.emulators import grouped_query_attention as emulator
from harness.errors import UsageError
from harness.operations.base import Inputs, Operation, Output
from harness.operations.case import Case
from harness.operations.values import LAYER_REGIMES, Values, cotangents, lengths, projection, rope_angles

__all__ = ["OPERATION", "GroupedQueryAttentionCase"]

AXES = ("batch", "token", "channel")
OUTPUTS = (Output(name="out", axes=AXES),)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedQueryAttentionCase(Case):
    """Attention heads are ``key_heads * group``; ``qk_norm_eps`` None leaves the norms out."""

    op: ClassVar[str] = "grouped_query_attention"
    regimes: ClassVar[tuple[str, ...]] = LAYER_REGIMES

    batch: int
    tokens: int
    hidden_size: int
    key_heads: int
    group: int
    head_dim: int
    qk_norm_eps: float | None = 1e-6
    is_causal: bool = True
    rope_style: str = "half"
    rope_dim: int | None = None
    enable_output_gate: bool = False
    qk_norm_zero_centered: bool = False
    key_mask: bool = False

    def check(self) -> None:
        """Refuses empty shapes, an odd rope width and one wider than the head."""
        for field in ("batch", "tokens", "hidden_size", "key_heads", "group"):
            self.at_least(field, 1)
        self.even("head_dim")
        if self.qk_norm_eps is not None:
            self.positive("qk_norm_eps")
        self.one_of("rope_style", ("half", "interleaved"))
        if self.rope_dim is not None:
            self.even("rope_dim")
            if self.rope_dim > self.head_dim:
                raise UsageError(
                    f"{self.op} case, rope_dim: got {self.rope_dim}, expected at most head_dim = {self.head_dim}"
                )


def draw(largest: int) -> st.SearchStrategy[dict[str, Any]]:
    """Returns a strategy of shapes and options."""
    head = st.sampled_from([(8, None), (16, None), (16, 8), (24, 6), (40, None)])
    return st.builds(
        lambda head, rest: {"head_dim": head[0], "rope_dim": head[1], **rest},
        head,
        st.fixed_dictionaries({
            "batch": st.integers(1, 2),
            "tokens": lengths(largest),
            "hidden_size": st.sampled_from([16, 24, 48]),
            "key_heads": st.integers(1, 2),
            "group": st.sampled_from([1, 2, 3]),
            "qk_norm_eps": st.sampled_from([None, 1e-6, 1e-5]),
            "is_causal": st.booleans(),
            "rope_style": st.sampled_from(["half", "interleaved"]),
            "enable_output_gate": st.booleans(),
            "qk_norm_zero_centered": st.booleans(),
            "key_mask": st.booleans(),
        }),
    )  # fmt: skip


def make(case: GroupedQueryAttentionCase) -> Inputs:
    """Returns the inputs of a case; all parameters are random."""
    values = Values(case)
    heads, width, hidden = case.key_heads * case.group, case.head_dim, case.hidden_size
    shape = (case.batch, case.tokens, hidden)
    rotated = case.rope_dim or width
    angles = rope_angles(values, case.batch, case.tokens, rotated, case.rope_style)
    tensors = {
        "hidden_states": values.store(values.kind("hidden_states", shape, case.regime)),
        "cos": values.store(torch.cos(angles)),
        "sin": values.store(torch.sin(angles)),
        "q_proj.weight": projection(values, "q_proj.weight", heads * width, hidden),
        "k_proj.weight": projection(values, "k_proj.weight", case.key_heads * width, hidden),
        "v_proj.weight": projection(values, "v_proj.weight", case.key_heads * width, hidden),
        "o_proj.weight": projection(values, "o_proj.weight", hidden, heads * width),
    }
    if case.key_mask:
        tensors["attention_mask"] = values.mask("attention_mask", shape[:2])
    if case.qk_norm_eps is not None:
        shift = 0.0 if case.qk_norm_zero_centered else 1.0
        for name in ("q_norm.weight", "k_norm.weight"):
            tensors[name] = values.store(values.normal(name, (width,), scale=0.5, shift=shift))
    if case.enable_output_gate:
        tensors["gate_proj.weight"] = projection(values, "gate_proj.weight", heads * width, hidden)
    return Inputs(
        tensors=tensors,
        options={
            "hidden_size": hidden, "num_attention_heads": heads, "num_key_value_heads": case.key_heads,
            "head_dim": width, "qk_norm_eps": case.qk_norm_eps, "is_causal": case.is_causal,
            "rope_style": case.rope_style, "rope_dim": case.rope_dim,
            "enable_output_gate": case.enable_output_gate, "qk_norm_zero_centered": case.qk_norm_zero_centered,
        },
        cotangents=cotangents(case, OUTPUTS, {"out": shape}),
    )  # fmt: skip


OPERATION = Operation(
    case=GroupedQueryAttentionCase,
    strategy=draw,
    inputs=make,
    reference=reference.grouped_query_attention,
    emulate=emulator.emulate,
    outputs=OUTPUTS,
    positional=("hidden_states", "attention_mask", "position_embeddings"),
    is_layer=True,
    axes={"hidden_states": AXES},
    call="grouped_query_attention(hidden_states, attention_mask, position_embeddings, parameters, *, hidden_size, "
    "num_attention_heads, num_key_value_heads, head_dim, qk_norm_eps, is_causal, rope_style, rope_dim=None, "
    "enable_output_gate=False, qk_norm_zero_centered=False)",
)
