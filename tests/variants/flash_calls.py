"""Other calls of an execution of attention: packed sequences, and the layer around them."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["make_flash_sdpa", "make_varlen_attention"]

Attention = Callable[..., tuple[Tensor, Tensor]]


def make_varlen_attention(attention: Attention) -> Attention:
    """Returns ``varlen_attention`` made of an ``attention``, sequence by sequence."""

    def varlen_attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        *,
        sinks: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor]:
        # In float32 from here on, so that their gradients are rounded after they are summed over the sequences.
        options["sinks"] = None if sinks is None else sinks.float()
        outs, sums = [], []
        pairs = zip(itertools.pairwise(cu_seqlens_q.tolist()), itertools.pairwise(cu_seqlens_k.tolist()), strict=True)
        for (first, last), (start, stop) in pairs:
            out, lse = attention(query[None, first:last], key[None, start:stop], value[None, start:stop], **options)
            outs.append(out[0])
            sums.append(lse[0])
        return torch.cat(outs), torch.cat(sums, -1)

    return varlen_attention


def make_flash_sdpa(attention: Attention) -> Callable[..., Tensor]:
    """Returns the layer ``flash_sdpa`` made of an ``attention``."""

    def flash_sdpa(
        query_states: Tensor,
        key_states: Tensor,
        value_states: Tensor,
        attention_mask: Tensor | None,
        parameters: Mapping[str, Tensor],
        *,
        is_causal: bool,
        scale: float,
        num_sinks: int | None = None,  # noqa: ARG001 - part of the layer's call
        window_size: int | None = None,
    ) -> Tensor:
        window = (window_size, 0 if is_causal else None)
        sinks = parameters.get("sinks")
        return attention(
            query_states, key_states, value_states, scale=scale, window=window, sinks=sinks, key_mask=attention_mask
        )[0]

    return flash_sdpa
