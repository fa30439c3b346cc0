"""Legal executions of the layers: a kernel per stage, each of which stores its result in the storage format.

A ``Stack`` says how each stage is done. Parameters have the names of the modules. Letters: B batch, T tokens, H query
or value heads, G key/value or query/key heads, D query/key head width, V value head width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Stack", "make_gated_delta_net", "make_grouped_query_attention", "make_latent_attention", "make_low_rank"]

Parameters = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """How the stages of a layer are done.

    Attributes:
        linear: name of a product, see ``_PRODUCTS``.
        norm: ``rms_norm``.
        gated_norm: ``gated_rms_norm``.
        rope: ``rope``.
        attention: ``attention``.
        conv: ``short_conv``.
        rule: ``gated_delta_rule``.
        mamba: ``mamba_decay``.
        log_sigmoid: ``log_sigmoid_decay``.
    """

    linear: str
    norm: Callable[..., Tensor]
    gated_norm: Callable[..., Tensor]
    rope: Callable[..., Tensor]
    attention: Callable[..., tuple[Tensor, Tensor]]
    conv: Callable[..., Tensor]
    rule: Callable[..., tuple[Tensor, Tensor]]
    mamba: Callable[..., Tensor]
    log_sigmoid: Callable[..., Tensor]

    def projected(self, x: Tensor, weight: Tensor) -> Tensor:
        """Returns the stored projection; products of stored operands, summed in float32."""
        rows = x.flatten(0, -2).float()
        return torch.unflatten(_PRODUCTS[self.linear](rows, weight.float().mT), 0, x.shape[:-1]).to(x.dtype)


def _reversed(left: Tensor, right: Tensor) -> Tensor:
    return left.flip(-1) @ right.flip(-2)


def _split(left: Tensor, right: Tensor) -> Tensor:
    half = left.shape[-1] // 2
    return left[:, :half] @ right[:half] + left[:, half:] @ right[half:]


def _even_and_odd(left: Tensor, right: Tensor) -> Tensor:
    return left[:, ::2] @ right[::2] + left[:, 1::2] @ right[1::2]


_PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "whole": torch.matmul,
    "reversed": _reversed,
    "split": _split,
    "even and odd": _even_and_odd,
}


def make_low_rank(stack: Stack) -> Callable[..., Tensor]:
    """Returns ``low_rank_projection``."""

    def layer(hidden_states: Tensor, parameters: Parameters, *, norm_eps: float, **_: Any) -> Tensor:
        return _low_rank(stack, hidden_states, parameters, "", norm_eps)

    return layer


def _low_rank(stack: Stack, x: Tensor, parameters: Parameters, prefix: str, eps: float) -> Tensor:
    down = stack.projected(x, parameters[f"{prefix}down_proj.weight"])
    rows = stack.norm(down, parameters[f"{prefix}norm.weight"], eps=eps)
    return stack.projected(rows, parameters[f"{prefix}up_proj.weight"])


def make_grouped_query_attention(stack: Stack) -> Callable[..., Tensor]:
    """Returns ``grouped_query_attention``."""

    def layer(
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
        heads = {
            name: torch.unflatten(stack.projected(hidden_states, parameters[f"{name}_proj.weight"]), -1, (-1, head_dim))
            for name in "qkv"
        }
        for name in "qk":
            if qk_norm_eps is not None:
                weight = parameters[f"{name}_norm.weight"]
                heads[name] = stack.norm(heads[name], weight, eps=qk_norm_eps, zero_centered=qk_norm_zero_centered)
            heads[name] = _rotated(stack, heads[name], position_embeddings, rope_style)
        window = (None, 0 if is_causal else None)
        scale = head_dim**-0.5
        out = stack.attention(*heads.values(), scale=scale, window=window, key_mask=attention_mask)[0].flatten(2)
        if enable_output_gate:
            gate = torch.sigmoid(stack.projected(hidden_states, parameters["gate_proj.weight"]))
            out = out * gate
        return stack.projected(out, parameters["o_proj.weight"])

    return layer


def _rotated(stack: Stack, x: Tensor, tables: tuple[Tensor, Tensor], style: str) -> Tensor:
    width = tables[0].shape[-1]
    if width == x.shape[-1]:
        return stack.rope(x, *tables, style=style)
    return torch.cat((stack.rope(x[..., :width], *tables, style=style), x[..., width:]), -1)


def make_latent_attention(stack: Stack) -> Callable[..., Tensor]:
    """Returns ``multi_head_latent_attention``."""

    def layer(
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        position_embeddings: tuple[Tensor, Tensor],
        parameters: Parameters,
        *,
        num_attention_heads: int,
        qk_nope_head_dim: int,
        kv_lora_rank: int,
        q_lora_rank: int | None,
        qk_down_norm_eps: float,
        is_causal: bool,
        rope_style: str,
        **_: Any,
    ) -> Tensor:
        N, H, eps = qk_nope_head_dim, num_attention_heads, qk_down_norm_eps
        if q_lora_rank is None:
            query = stack.projected(hidden_states, parameters["q_proj.weight"])
        else:
            query = _low_rank(stack, hidden_states, parameters, "q_proj.", eps)
        query = torch.unflatten(query, -1, (H, -1))
        down = stack.projected(hidden_states, parameters["kv_down_proj.weight"])
        latent, shared = down[..., :kv_lora_rank], down[..., None, kv_lora_rank:]
        rows = stack.norm(latent, parameters["kv_down_norm.weight"], eps=eps)
        both = torch.unflatten(stack.projected(rows, parameters["kv_up_proj.weight"]), -1, (H, -1))
        turned = stack.rope(query[..., N:], *position_embeddings, style=rope_style)
        turned_key = stack.rope(shared, *position_embeddings, style=rope_style).expand(-1, -1, H, -1)
        scale = query.shape[-1] ** -0.5
        out, _lse = stack.attention(
            torch.cat((query[..., :N], turned), -1), torch.cat((both[..., :N], turned_key), -1), both[..., N:],
            scale=scale, window=(None, 0 if is_causal else None), key_mask=attention_mask,
        )  # fmt: skip
        return stack.projected(out.flatten(2), parameters["o_proj.weight"])

    return layer


def make_gated_delta_net(stack: Stack) -> Callable[..., Tensor]:
    """Returns ``gated_delta_net``."""

    def layer(
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
        G, H, D, V = num_query_key_heads, num_value_heads, head_qk_dim, head_v_dim
        if attention_mask is not None:
            hidden_states = hidden_states.masked_fill(~attention_mask.unsqueeze(-1), 0.0)
        mixed = stack.conv(
            stack.projected(hidden_states, parameters["qkv_proj.weight"]), parameters["qkv_conv1d.weight"]
        )
        query, key, value = torch.split(mixed, [G * D, G * D, H * V], -1)
        beta = torch.sigmoid(stack.projected(hidden_states, parameters["b_proj.weight"]))
        out, _state = stack.rule(
            torch.unflatten(query, -1, (G, D)), torch.unflatten(key, -1, (G, D)), torch.unflatten(value, -1, (H, V)),
            _log_decay(stack, hidden_states, parameters, decay_gate), beta, scale=D**-0.5, normalize_qk=use_qk_l2norm,
        )  # fmt: skip
        gate = torch.unflatten(stack.projected(hidden_states, parameters["g_proj.weight"]), -1, (H, V))
        gated = stack.gated_norm(out, gate, parameters["out_norm.weight"], eps=norm_eps)
        return stack.projected(gated.flatten(2), parameters["o_proj.weight"])

    return layer


def _log_decay(stack: Stack, hidden: Tensor, parameters: Parameters, gate: Mapping[str, Any]) -> Tensor:
    x = stack.projected(hidden, parameters["decay_gate.proj.weight"])
    if gate["type"] == "mamba":
        return stack.mamba(x, parameters["decay_gate.A_log"], parameters["decay_gate.dt_bias"])
    return stack.log_sigmoid(x, normalizer=float(gate["normalizer"]))
