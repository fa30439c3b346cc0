"""Cases and inputs of the layer ``multi_head_latent_attention``."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from hypothesis import strategies as st

import reference
from harness.emulators import multi_head_latent_attention as emulator
from harness.operations.base import Inputs, Operation, Output
from harness.operations.case import Case
from harness.operations.values import LAYER_REGIMES, Values, cotangents, lengths, projection, rope_angles

__all__ = ["OPERATION", "MultiHeadLatentAttentionCase"]

AXES = ("batch", "token", "channel")
OUTPUTS = (Output(name="out", axes=AXES),)


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiHeadLatentAttentionCase(Case):
    """``q_lora_rank`` None makes the query projection one matrix."""

    op: ClassVar[str] = "multi_head_latent_attention"
    regimes: ClassVar[tuple[str, ...]] = LAYER_REGIMES

    batch: int
    tokens: int
    hidden_size: int
    heads: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    kv_lora_rank: int
    q_lora_rank: int | None = None
    norm_eps: float = 1e-6
    is_causal: bool = True
    rope_style: str = "half"
    key_mask: bool = False

    def check(self) -> None:
        """Refuses empty shapes and an odd rope width."""
        for field in (
            "batch",
            "tokens",
            "hidden_size",
            "heads",
            "nope_dim",
            "value_dim",
            "kv_lora_rank",
            "q_lora_rank",
        ):
            self.at_least(field, 1)
        self.even("rope_dim")
        self.one_of("rope_style", ("half", "interleaved"))
        self.positive("norm_eps")


def draw(largest: int) -> st.SearchStrategy[dict[str, Any]]:
    """Returns a strategy of shapes and options."""
    return st.fixed_dictionaries({
        "batch": st.integers(1, 2),
        "tokens": lengths(largest),
        "hidden_size": st.sampled_from([16, 24, 48]),
        "heads": st.integers(1, 4),
        "nope_dim": st.sampled_from([4, 8, 16]),
        "rope_dim": st.sampled_from([2, 4, 8]),
        "value_dim": st.sampled_from([6, 12, 32]),
        "kv_lora_rank": st.sampled_from([4, 12, 20]),
        "q_lora_rank": st.sampled_from([None, 6, 20]),
        "norm_eps": st.sampled_from([1e-6, 1e-5]),
        "is_causal": st.booleans(),
        "rope_style": st.sampled_from(["half", "interleaved"]),
        "key_mask": st.booleans(),
    })  # fmt: skip


def make(case: MultiHeadLatentAttentionCase) -> Inputs:
    """Returns the inputs of a case; all parameters are random."""
    values = Values(case)
    hidden, width = case.hidden_size, case.nope_dim + case.rope_dim
    shape = (case.batch, case.tokens, hidden)
    angles = rope_angles(values, case.batch, case.tokens, case.rope_dim, case.rope_style)
    sizes = {
        "kv_down_proj.weight": (case.kv_lora_rank + case.rope_dim, hidden),
        "kv_up_proj.weight": (case.heads * (case.nope_dim + case.value_dim), case.kv_lora_rank),
        "o_proj.weight": (hidden, case.heads * case.value_dim),
    }
    norms = {"kv_down_norm.weight": case.kv_lora_rank}
    if case.q_lora_rank is None:
        sizes["q_proj.weight"] = (case.heads * width, hidden)
    else:
        sizes["q_proj.down_proj.weight"] = (case.q_lora_rank, hidden)
        sizes["q_proj.up_proj.weight"] = (case.heads * width, case.q_lora_rank)
        norms["q_proj.norm.weight"] = case.q_lora_rank
    tensors = {
        "hidden_states": values.store(values.kind("hidden_states", shape, case.regime)),
        "cos": values.store(torch.cos(angles)),
        "sin": values.store(torch.sin(angles)),
    }
    if case.key_mask:
        tensors["attention_mask"] = values.mask("attention_mask", shape[:2])
    tensors |= {name: projection(values, name, *size) for name, size in sizes.items()}
    tensors |= {name: values.store(values.normal(name, (size,), scale=0.5, shift=1.0)) for name, size in norms.items()}
    return Inputs(
        tensors=tensors,
        options={
            "hidden_size": hidden, "num_attention_heads": case.heads, "qk_nope_head_dim": case.nope_dim,
            "qk_rope_head_dim": case.rope_dim, "v_head_dim": case.value_dim, "kv_lora_rank": case.kv_lora_rank,
            "q_lora_rank": case.q_lora_rank, "qk_down_norm_eps": case.norm_eps, "is_causal": case.is_causal,
            "rope_style": case.rope_style,
        },
        cotangents=cotangents(case, OUTPUTS, {"out": shape}),
    )  # fmt: skip


OPERATION = Operation(
    case=MultiHeadLatentAttentionCase,
    strategy=draw,
    inputs=make,
    reference=reference.multi_head_latent_attention,
    emulate=emulator.emulate,
    outputs=OUTPUTS,
    positional=("hidden_states", "attention_mask", "position_embeddings"),
    is_layer=True,
    axes={"hidden_states": AXES},
    call="multi_head_latent_attention(hidden_states, attention_mask, position_embeddings, parameters, *, hidden_size, "
    "num_attention_heads, qk_nope_head_dim, qk_rope_head_dim, v_head_dim, kv_lora_rank, q_lora_rank, "
    "qk_down_norm_eps, is_causal, rope_style)",
)
