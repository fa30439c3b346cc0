"""Launches of the gated delta rule's backward kernels.

After ``carry_state`` has run once more and stored states: ``carry_cotangent``, ``pairs``, ``query_gradient`` and
``key_gradient``. Arguments are checked by the caller, which also wraps the launches in ``non_stop_arithmetic``.

Letters: ``B`` batch, ``T`` tokens, ``H`` value heads, ``D`` query/key width, ``V`` value width, ``C`` tokens of a
chunk.
"""

from typing import Any, NamedTuple

import torch
import triton

from optimized.kernels.delta_rule.carry_cotangent import carry_cotangent_kernel
from optimized.kernels.delta_rule.chunks import ChunkTable
from optimized.kernels.delta_rule.key_gradient import key_gradient_kernel
from optimized.kernels.delta_rule.launch import (
    MAX_REGISTERS,
    Inputs,
    Prepared,
    Settings,
    carried_constants,
    constants,
)
from optimized.kernels.delta_rule.pairs import pair_kernel
from optimized.kernels.delta_rule.query_gradient import query_gradient_kernel
from optimized.kernels.delta_rule.tiling import Tiles
from optimized.kernels.precision import allocate_output

__all__ = ["Cotangents", "Pairs", "Recomputed", "carry_cotangent", "key_gradients", "pair_gradients", "query_gradient"]


class Recomputed(NamedTuple):
    """States before every chunk ``(chunks, H, D, V)`` in float32, and the written rows ``(B, T, H, V)``."""

    states: torch.Tensor
    delta: torch.Tensor


class Cotangents(NamedTuple):
    """Results of ``carry_cotangent``; ``after_chunk (chunks, H, D, V)`` in float32, rows ``(B, T, H, V)``."""

    after_chunk: torch.Tensor
    residual: torch.Tensor
    value: torch.Tensor
    initial_state: torch.Tensor | None


class Pairs(NamedTuple):
    """Results of ``pairs``: operands ``(chunks, H, C, C)``, and sums ``(B, T, H)`` in float32."""

    scores: torch.Tensor
    couplings: torch.Tensor
    decays: torch.Tensor
    rates: torch.Tensor


def carry_cotangent(
    inputs: Inputs,
    prepared: Prepared,
    table: ChunkTable,
    out_gradient: torch.Tensor,
    final_gradient: torch.Tensor,
    initial_dtype: torch.dtype | None,
    settings: Settings,
) -> Cotangents:
    """Returns the cotangents after every chunk, ``dr``, and the gradients of values and initial state."""
    D, (B, T, H, V), device = inputs.query.shape[3], inputs.value.shape, inputs.value.device
    tiles = settings.tiling.carry_cotangent
    cotangents = Cotangents(
        torch.empty((table.num_chunks, H, D, V), dtype=torch.float32, device=device),
        allocate_output((B, T, H, V), dtype=settings.dtype, device=device),
        allocate_output((B, T, H, V), dtype=settings.dtype, device=device),
        None
        if initial_dtype is None
        else allocate_output((table.num_sequences, H, D, V), dtype=initial_dtype, device=device),
    )
    carry_cotangent_kernel[(table.num_sequences * H * triton.cdiv(V, tiles.block_v),)](
        inputs.query,
        inputs.key,
        table.sequences,
        *prepared,
        out_gradient,
        final_gradient,
        *cotangents,
        inputs.query.stride(),
        inputs.key.stride(),
        out_gradient.stride(),
        settings.scale,
        T,
        H,
        BLOCK_D=tiles.block_d,
        BLOCK_V=tiles.block_v,
        V=inputs.value.shape[3],
        HAS_INITIAL=initial_dtype is not None,
        num_warps=tiles.num_warps,
        maxnreg=MAX_REGISTERS,
        num_stages=tiles.num_stages,
        **carried_constants(tiles, settings),
        **constants(inputs, table, settings),
    )
    return cotangents


def pair_gradients(
    inputs: Inputs,
    prepared: Prepared,
    table: ChunkTable,
    recomputed: Recomputed,
    cotangents: Cotangents,
    out_gradient: torch.Tensor,
    settings: Settings,
) -> Pairs:
    """Returns the cotangents of ``Q K^T`` and ``K K^T`` and what pairs give to log decays and beta."""
    (_, T, H), device, C = inputs.beta.shape, inputs.beta.device, settings.tiling.chunk_size
    squares = [allocate_output((table.num_chunks, H, C, C), dtype=settings.dtype, device=device) for _ in range(2)]
    sums = [torch.empty(inputs.beta.shape, dtype=torch.float32, device=device) for _ in range(2)]
    pairs = Pairs(*squares, *sums)
    pair_kernel[(table.num_chunks * H,)](
        *inputs[:5],
        table.chunks,
        prepared.query_norms,
        prepared.key_norms,
        recomputed.delta,
        out_gradient,
        cotangents.residual,
        *pairs,
        inputs.query.stride(),
        inputs.key.stride(),
        inputs.value.stride(),
        out_gradient.stride(),
        settings.scale,
        T,
        H,
        **_gradient_constants(inputs, table, settings, settings.tiling.pairs),
    )
    return pairs


def query_gradient(
    inputs: Inputs,
    prepared: Prepared,
    table: ChunkTable,
    recomputed: Recomputed,
    pairs: Pairs,
    out_gradient: torch.Tensor,
    settings: Settings,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the gradient of the queries (to be finished), and what flows from states into tokens ``(B, T, H)``."""
    (_, T, H), G = inputs.beta.shape, inputs.query.shape[2]
    gradient = allocate_output(inputs.query.shape, dtype=settings.dtype, device=inputs.query.device)
    inflow = torch.empty(inputs.beta.shape, dtype=torch.float32, device=inputs.beta.device)
    query_gradient_kernel[(table.num_chunks * G,)](
        inputs.query,
        inputs.key,
        table.chunks,
        prepared.from_start,
        prepared.query_norms,
        prepared.key_norms,
        recomputed.states,
        out_gradient,
        pairs.scores,
        gradient,
        inflow,
        inputs.query.stride(),
        inputs.key.stride(),
        out_gradient.stride(),
        settings.scale,
        T,
        H,
        H // G,
        inputs.value.shape[3],
        **_gradient_constants(inputs, table, settings, settings.tiling.query_gradient),
    )
    return gradient, inflow


def key_gradients(
    inputs: Inputs,
    prepared: Prepared,
    table: ChunkTable,
    recomputed: Recomputed,
    cotangents: Cotangents,
    pairs: Pairs,
    inflow: torch.Tensor,
    gate_dtypes: tuple[torch.dtype, torch.dtype],
    settings: Settings,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the gradients of keys, log decays and beta (to be finished)."""
    (_, T, H), G, device = inputs.beta.shape, inputs.query.shape[2], inputs.beta.device
    decay_dtype, beta_dtype = gate_dtypes
    gradients = (
        allocate_output(inputs.key.shape, dtype=settings.dtype, device=device),
        allocate_output(inputs.beta.shape, dtype=decay_dtype, device=device),
        allocate_output(inputs.beta.shape, dtype=beta_dtype, device=device),
    )
    key_gradient_kernel[(table.num_chunks * G,)](
        inputs.query,
        inputs.key,
        inputs.beta,
        table.chunks,
        prepared.from_start,
        prepared.to_end,
        prepared.query_norms,
        prepared.key_norms,
        *recomputed,
        cotangents.after_chunk,
        cotangents.residual,
        *pairs,
        inflow,
        *gradients,
        inputs.query.stride(),
        inputs.key.stride(),
        T,
        H,
        H // G,
        inputs.value.shape[3],
        **_gradient_constants(inputs, table, settings, settings.tiling.key_gradient),
    )
    return gradients


def _gradient_constants(inputs: Inputs, table: ChunkTable, settings: Settings, tiles: Tiles) -> dict[str, Any]:
    return constants(inputs, table, settings) | {
        "V": inputs.value.shape[3],
        "IS_NORMALIZED": settings.norm_eps > 0,
        "BLOCK_D": tiles.block_d,
        "BLOCK_V": tiles.block_v,
        "num_warps": tiles.num_warps,
        "num_stages": tiles.num_stages,
    }
