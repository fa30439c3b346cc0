"""The layers as functions whose every step can be replaced: what faults of their wiring are seeded into.

Letters: B batch, T tokens, G query/key or key/value heads, H query or value heads, D head width, R rotated channels.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from optimized.eager.attention import attention
from optimized.eager.gated_delta_rule import gated_delta_rule
from optimized.eager.gated_rms_norm import gated_rms_norm
from optimized.eager.log_sigmoid_decay import log_sigmoid_decay
from optimized.eager.mamba_decay import mamba_decay
from optimized.eager.rms_norm import rms_norm
from optimized.eager.rope import rope
from optimized.eager.short_conv import masked, short_conv

__all__ = ["DeltaNet", "GroupedQuery", "Latent", "Surroundings", "heads"]

Parameters = Mapping[str, Tensor]


def heads(x: Tensor, width: int) -> Tensor:
    """Returns (B, T, C) as (B, T, heads, width)."""
    return torch.unflatten(x, -1, (-1, width))


@dataclass(slots=True, kw_only=True)
class Surroundings:
    """What the norms and rotations of a layer read besides queries and keys."""

    mask: Tensor | None
    cos: Tensor
    sin: Tensor
    style: str
    eps: float | None
    is_zero_centered: bool
    parameters: Parameters


class GroupedQuery:
    """The healthy ``grouped_query_attention``; a faulty one overrides a step."""

    def layer(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        position_embeddings: tuple[Tensor, Tensor],
        parameters: Parameters,
        *,
        head_dim: int,
        qk_norm_eps: float | None,
        is_causal: bool,
        rope_style: str,
        enable_output_gate: bool = False,
        qk_norm_zero_centered: bool = False,
        **_: Any,
    ) -> Tensor:
        """Returns the layer's result; the call is that of the operation."""
        query, key, value = (
            heads(functional.linear(hidden_states, parameters[f"{name}_proj.weight"]), head_dim) for name in "qkv"
        )
        around = Surroundings(
            mask=attention_mask, cos=position_embeddings[0], sin=position_embeddings[1], style=rope_style,
            eps=qk_norm_eps, is_zero_centered=qk_norm_zero_centered, parameters=parameters,
        )  # fmt: skip
        query, key = self.prepared(query, "q", around), self.prepared(key, "k", around)
        window = (None, 0 if is_causal else None)
        out, _lse = attention(query, key, value, scale=head_dim**-0.5, window=window, key_mask=attention_mask)
        out = out.flatten(2)
        if enable_output_gate:
            out = out * torch.sigmoid(functional.linear(hidden_states, parameters["gate_proj.weight"]))
        return functional.linear(out, parameters["o_proj.weight"])

    def prepared(self, x: Tensor, name: str, around: Surroundings) -> Tensor:
        """Returns queries or keys, normalised and rotated."""
        return self.rotated(self.normalised(x, name, around), name, around)

    def normalised(self, x: Tensor, name: str, around: Surroundings) -> Tensor:
        """Returns rows over the root of their mean square, times the norm's weight."""
        if around.eps is None:
            return x
        weight = around.parameters[f"{name}_norm.weight"]
        return self.norm(x, weight, eps=around.eps, zero_centered=around.is_zero_centered)

    def norm(self, x: Tensor, weight: Tensor, *, eps: float, zero_centered: bool) -> Tensor:
        """Returns ``rms_norm``."""
        return rms_norm(x, weight, eps=eps, zero_centered=zero_centered)

    def rotated(self, x: Tensor, name: str, around: Surroundings) -> Tensor:
        """Returns heads whose first R channels are rotated."""
        cos, sin = self.tables(name, around)
        return self.rotation(x, cos, sin, around.style)

    def tables(self, name: str, around: Surroundings) -> tuple[Tensor, Tensor]:  # noqa: ARG002 - a fault reads it
        """Returns cosines and sines of queries or keys."""
        return around.cos, around.sin

    def rotation(self, x: Tensor, cos: Tensor, sin: Tensor, style: str) -> Tensor:
        """Returns ``rope`` of as many channels as the tables have; the others pass."""
        width = cos.shape[-1]
        return torch.cat((rope(x[..., :width], cos, sin, style=style), x[..., width:]), -1)


class Latent:
    """The healthy ``multi_head_latent_attention``; a faulty one overrides a step."""

    def layer(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        position_embeddings: tuple[Tensor, Tensor],
        parameters: Parameters,
        *,
        qk_nope_head_dim: int,
        qk_rope_head_dim: int,
        v_head_dim: int,
        kv_lora_rank: int,
        q_lora_rank: int | None,
        qk_down_norm_eps: float,
        is_causal: bool,
        rope_style: str,
        **_: Any,
    ) -> Tensor:
        """Returns the layer's result; the call is that of the operation."""

        def project(x: Tensor, name: str) -> Tensor:
            return functional.linear(x, parameters[f"{name}.weight"])

        content, rotary = qk_nope_head_dim, qk_rope_head_dim
        if q_lora_rank is None:
            queries = project(hidden_states, "q_proj")
        else:
            down = project(hidden_states, "q_proj.down_proj")
            queries = project(
                rms_norm(down, parameters["q_proj.norm.weight"], eps=qk_down_norm_eps), "q_proj.up_proj"
            )  # fmt: skip
        query = heads(queries, content + rotary)
        latent, shared = torch.split(project(hidden_states, "kv_down_proj"), [kv_lora_rank, rotary], -1)
        latent = rms_norm(latent, parameters["kv_down_norm.weight"], eps=qk_down_norm_eps)
        key, value = torch.split(heads(project(latent, "kv_up_proj"), content + v_head_dim), [content, v_head_dim], -1)
        turned = self.query_rotation(query[..., content:], *position_embeddings, rope_style)
        turned_key = self.key_rotation(shared.unsqueeze(2), *position_embeddings, rope_style)
        query = torch.cat((query[..., :content], turned), -1)
        key = torch.cat((key, turned_key.expand(-1, -1, query.shape[2], -1)), -1)
        scale = self.scale(content, rotary, v_head_dim)
        window = (None, 0 if is_causal else None)
        out, _lse = attention(query, key, value, scale=scale, window=window, key_mask=attention_mask)
        return project(out.flatten(2), "o_proj")

    def scale(self, content: int, rotary: int, value: int) -> float:  # noqa: ARG002 - a fault reads it
        """Returns the factor of the logits from the widths of a head's parts."""
        return 1 / math.sqrt(content + rotary)

    def query_rotation(self, x: Tensor, cos: Tensor, sin: Tensor, style: str) -> Tensor:
        """Returns the rotated part of the queries."""
        return rope(x, cos, sin, style=style)

    def key_rotation(self, x: Tensor, cos: Tensor, sin: Tensor, style: str) -> Tensor:
        """Returns the rotated part of the keys, which all heads share."""
        return rope(x, cos, sin, style=style)


class DeltaNet:
    """The healthy ``gated_delta_net``; a faulty one overrides a step."""

    def layer(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        parameters: Parameters,
        *,
        num_query_key_heads: int,
        num_value_heads: int,
        head_qk_dim: int,
        head_v_dim: int,
        norm_eps: float,
        decay_gate: Mapping[str, Any],
        use_qk_l2norm: bool = True,
        **_: Any,
    ) -> Tensor:
        """Returns the layer's result; the call is that of the operation."""

        def project(name: str) -> Tensor:
            return functional.linear(hidden, parameters[f"{name}.weight"])

        hidden = hidden_states if attention_mask is None else self.masked(hidden_states, attention_mask)
        mixed = short_conv(project("qkv_proj"), parameters["qkv_conv1d.weight"])
        query, key, value = self.split(mixed, num_query_key_heads, num_value_heads, (head_qk_dim, head_v_dim))
        decay = self.decay(project("decay_gate.proj"), decay_gate, parameters)
        rates = self.rates(project("b_proj"))
        out = gated_delta_rule(
            query, key, value, decay, rates, scale=head_qk_dim**-0.5, normalize_qk=use_qk_l2norm
        ).out  # fmt: skip
        gate = heads(project("g_proj"), head_v_dim)
        out = gated_rms_norm(out, gate, parameters["out_norm.weight"], eps=norm_eps)
        return functional.linear(out.flatten(2), parameters["o_proj.weight"])

    def masked(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Returns hidden states with padding at 0."""
        return masked(hidden, mask)

    def split(self, mixed: Tensor, keys: int, values: int, widths: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Returns queries and keys of as many heads, and values of theirs."""
        query, key, value = torch.split(mixed, [keys * widths[0], keys * widths[0], values * widths[1]], -1)
        return heads(query, widths[0]), heads(key, widths[0]), heads(value, widths[1])

    def decay(self, x: Tensor, gate: Mapping[str, Any], parameters: Parameters) -> Tensor:
        """Returns the log decay."""
        if gate["type"] == "mamba":
            return mamba_decay(x, parameters["decay_gate.A_log"], parameters["decay_gate.dt_bias"])
        return log_sigmoid_decay(x, normalizer=gate["normalizer"])

    def rates(self, x: Tensor) -> Tensor:
        """Returns the strengths of the writes."""
        return torch.sigmoid(x)
