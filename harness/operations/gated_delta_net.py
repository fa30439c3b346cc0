"""Cases and inputs of the layer ``gated_delta_net``."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from hypothesis import strategies as st
from torch import Tensor

import reference
from harness.emulators import gated_delta_net as emulator
from harness.operations.base import Inputs, Operation, Output
from harness.operations.case import Case
from harness.operations.values import LAYER_REGIMES, Values, cotangents, lengths, projection

__all__ = ["OPERATION", "GatedDeltaNetCase"]

AXES = ("batch", "token", "channel")
OUTPUTS = (Output(name="out", axes=AXES),)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedDeltaNetCase(Case):
    """Value heads are ``key_heads * group``; the mask is left padding and holes, as in a batch of prompts."""

    op: ClassVar[str] = "gated_delta_net"
    regimes: ClassVar[tuple[str, ...]] = LAYER_REGIMES

    batch: int
    tokens: int
    hidden_size: int
    key_heads: int
    group: int
    key_dim: int
    value_dim: int
    norm_eps: float = 1e-6
    conv_size: int = 4
    gate: str = "mamba"
    normalizer: float = 16.0
    use_qk_l2norm: bool = True
    mask: bool = False

    def check(self) -> None:
        """Refuses empty shapes and an unknown gate."""
        for field in ("batch", "tokens", "hidden_size", "key_heads", "group", "key_dim", "value_dim", "conv_size"):
            self.at_least(field, 1)
        self.one_of("gate", ("mamba", "logsigmoid"))
        self.positive("norm_eps")
        self.positive("normalizer")


def draw(largest: int) -> st.SearchStrategy[dict[str, Any]]:
    """Returns a strategy of shapes and options."""
    return st.fixed_dictionaries({
        "batch": st.integers(1, 2),
        "tokens": lengths(largest),
        "hidden_size": st.sampled_from([16, 24, 48]),
        "key_heads": st.integers(1, 2),
        "group": st.sampled_from([1, 2, 3]),
        "key_dim": st.sampled_from([4, 8, 16]),
        "value_dim": st.sampled_from([4, 8, 24]),
        "norm_eps": st.sampled_from([1e-6, 1e-5]),
        "conv_size": st.sampled_from([2, 4]),
        "gate": st.sampled_from(["mamba", "logsigmoid"]),
        "normalizer": st.sampled_from([1.0, 16.0]),
        "use_qk_l2norm": st.sampled_from([True]),  # without it keys have any length and the recurrence can diverge
        "mask": st.booleans(),
    })  # fmt: skip


def make(case: GatedDeltaNetCase) -> Inputs:
    """Returns the inputs of a case; all parameters are random."""
    values = Values(case)
    hidden, heads = case.hidden_size, case.key_heads * case.group
    shape = (case.batch, case.tokens, hidden)
    keys, inner = case.key_heads * case.key_dim, heads * case.value_dim
    tensors = {"hidden_states": values.store(values.kind("hidden_states", shape, case.regime))}
    if case.mask:
        tensors["attention_mask"] = values.mask("attention_mask", shape[:2])
    sizes = {
        "qkv_proj.weight": (2 * keys + inner, hidden),
        "b_proj.weight": (heads, hidden),
        "g_proj.weight": (inner, hidden),
        "decay_gate.proj.weight": (heads, hidden),
        "o_proj.weight": (hidden, inner),
    }
    tensors |= {name: projection(values, name, *size) for name, size in sizes.items()}
    tensors["qkv_conv1d.weight"] = values.store(values.normal("qkv_conv1d.weight", (2 * keys + inner, case.conv_size)))
    tensors["out_norm.weight"] = values.store(values.normal("out_norm.weight", (case.value_dim,), scale=0.5, shift=1.0))
    tensors |= _gate_parameters(case, values, heads)
    return Inputs(
        tensors=tensors,
        options={
            "hidden_size": hidden, "num_query_key_heads": case.key_heads, "num_value_heads": heads,
            "head_qk_dim": case.key_dim, "head_v_dim": case.value_dim, "norm_eps": case.norm_eps,
            "conv_size": case.conv_size, "decay_gate": _gate(case), "use_qk_l2norm": case.use_qk_l2norm,
        },
        cotangents=cotangents(case, OUTPUTS, {"out": shape}),
    )  # fmt: skip


def _gate(case: GatedDeltaNetCase) -> dict[str, Any]:
    gate: dict[str, Any] = {"type": case.gate, "normalizer": case.normalizer}
    return gate | {"dt_min": 1e-3, "dt_max": 1e-1, "dt_init_floor": 1e-4} if case.gate == "mamba" else gate


def _gate_parameters(case: GatedDeltaNetCase, values: Values, heads: int) -> dict[str, Tensor]:
    """Returns the parameters of the Mamba gate; the log-sigmoid gate has none beyond its projection."""
    if case.gate != "mamba":
        return {}
    return {
        "decay_gate.A_log": values.store(torch.log(values.uniform("decay_gate.A_log", (heads,), 0.05, 16))),
        "decay_gate.dt_bias": values.store(values.normal("decay_gate.dt_bias", (heads,), shift=-3)),
    }


OPERATION = Operation(
    case=GatedDeltaNetCase,
    strategy=draw,
    inputs=make,
    reference=reference.gated_delta_net,
    emulate=emulator.emulate,
    outputs=OUTPUTS,
    positional=("hidden_states", "attention_mask"),
    is_layer=True,
    tiles=(16, 64),
    samples=16,
    axes={"hidden_states": AXES},
    call="gated_delta_net(hidden_states, attention_mask, parameters, *, hidden_size, num_query_key_heads, "
    "num_value_heads, head_qk_dim, head_v_dim, norm_eps, conv_size, decay_gate, use_qk_l2norm=True)",
)
