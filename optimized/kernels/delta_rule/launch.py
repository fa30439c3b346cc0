"""Launches of the gated delta rule's forward kernels, ``solve``, ``scores`` and ``carry_state``, and what all share.

Arguments are checked by the caller, which also wraps the launches in ``non_stop_arithmetic``.

Letters: ``B`` batch, ``T`` tokens, ``G`` query/key heads, ``H`` value heads, ``D`` query/key width, ``V`` value width,
``N`` sequences, ``C`` tokens of a chunk.
"""

from typing import Any, Final, NamedTuple

import torch
import triton

from optimized.kernels.delta_rule.carry_state import carry_state_kernel
from optimized.kernels.delta_rule.chunks import ChunkTable
from optimized.kernels.delta_rule.scores import scores_kernel
from optimized.kernels.delta_rule.solve import solve_kernel
from optimized.kernels.delta_rule.tiling import DeltaRuleTiling, Tiles
from optimized.kernels.precision import allocate_output, kernel_input, kernels_are_interpreted, triton_dtype

__all__ = [
    "MAX_REGISTERS",
    "Inputs",
    "Prepared",
    "Settings",
    "as_inputs",
    "carried_constants",
    "carry_state",
    "carry_state_for_backward",
    "constants",
    "prepare",
    "rows_are_aligned",
    "strided_rows",
]


_LARGEST_STRIDE: Final = 2**22
"""Largest stride inside a tile of at most 64 tokens and 256 channels whose offsets have 32 bits."""


class Inputs(NamedTuple):
    """Tensors as kernels read them."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    log_decay: torch.Tensor
    beta: torch.Tensor
    initial_state: torch.Tensor | None


class Prepared(NamedTuple):
    """What does not depend on a state.

    Decays summed and beta ``(chunks, H, C)``, operands ``(chunks, H, C, C)``, norms ``(B, T, G)``: the factors
    ``1 / sqrt(sum x^2 + eps)`` of queries and keys, or None.
    """

    from_start: torch.Tensor
    to_end: torch.Tensor
    rates: torch.Tensor
    inverse: torch.Tensor
    attention: torch.Tensor
    query_norms: torch.Tensor | None
    key_norms: torch.Tensor | None


MAX_REGISTERS = 255
"""All that a thread can have: left to itself, ptxas spills a few to make room for one more program.

The kernels of the forward pass are the exception: the one that carries a state spills if it is told so.
"""


class Settings(NamedTuple):
    """What all launches of one call share."""

    dtype: torch.dtype
    scale: float
    norm_eps: float
    tiling: DeltaRuleTiling


def as_inputs(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    log_decay: torch.Tensor,
    beta: torch.Tensor,
    initial_state: torch.Tensor | None,
) -> Inputs:
    """Returns the arguments as kernels read them: queries, keys and values with their strides, the rest contiguous."""
    return Inputs(
        strided_rows(query),
        strided_rows(key),
        strided_rows(value),
        kernel_input(log_decay).contiguous(),
        kernel_input(beta).contiguous(),
        None if initial_state is None else kernel_input(initial_state).contiguous(),
    )


def strided_rows(tensor: torch.Tensor) -> torch.Tensor:
    """Returns a tensor ``(B, T, heads, width)`` as kernels read it, contiguous if an offset in a tile needs 64 bits."""
    needs_copy = max(tensor.stride(1), tensor.stride(3)) > _LARGEST_STRIDE
    return kernel_input(tensor.contiguous() if needs_copy else tensor)


def rows_are_aligned(*tensors: torch.Tensor) -> bool:
    """Returns whether rows of tensors ``(B, T, heads, width)`` are copied to shared memory 16 bytes at a time.

    The compiler knows of an address and of a stride whether it is a multiple of 16, and of nothing else.
    """
    return all(
        x.stride(3) == 1 and all(stride % 16 == 0 for stride in x.stride()[:3]) and x.data_ptr() % 16 == 0
        for x in tensors
    )


def constants(inputs: Inputs, table: ChunkTable, settings: Settings) -> dict[str, Any]:
    """Returns the compile-time arguments of every kernel; fused multiply-adds are pinned, their default may change."""
    return {
        "HEADS_PER_KEY": inputs.value.shape[2] // inputs.query.shape[2],
        "D": inputs.query.shape[3],
        "CHUNK": settings.tiling.chunk_size,
        "IS_PACKED": table.chunks is not None,
        "DTYPE": triton_dtype(settings.dtype),
        "INTERPRETED": kernels_are_interpreted(),
        "enable_fp_fusion": True,
    }


def carried_constants(tiles: Tiles, settings: Settings) -> dict[str, Any]:
    """Returns the compile-time arguments of the two kernels that carry a state or its cotangent, but for shapes."""
    is_normalized = settings.norm_eps > 0
    return {
        "IS_NORMALIZED": is_normalized,
        "ROUNDS_KEYS": is_normalized and settings.dtype == torch.float16,
        "HOISTS": tiles.hoists,
    }


def prepare(inputs: Inputs, table: ChunkTable, settings: Settings) -> Prepared:
    """Returns decays, inverses, masked query-key products and norms of all chunks: two launches."""
    B, T, H = inputs.beta.shape
    G, device, tiling = inputs.query.shape[2], inputs.query.device, settings.tiling
    shape = (table.num_chunks, H, tiling.chunk_size)
    sums = [torch.empty(shape, dtype=torch.float32, device=device) for _ in range(3)]
    squares = [allocate_output((*shape, shape[2]), dtype=settings.dtype, device=device) for _ in range(2)]
    norms: list[torch.Tensor | None] = [None, None]
    if settings.norm_eps > 0:
        norms = [torch.empty((B, T, G), dtype=torch.float32, device=device) for _ in range(2)]
    prepared = Prepared(*sums, *squares, *norms)
    shared = constants(inputs, table, settings) | {"NORM_EPS": settings.norm_eps}
    solve_kernel[(table.num_chunks * H,)](
        inputs.key,
        inputs.log_decay,
        inputs.beta,
        table.chunks,
        *sums,
        prepared.inverse,
        prepared.key_norms,
        inputs.key.stride(),
        T,
        H,
        BLOCK_D=tiling.solve.block_d,
        SOLVE_PRECISION=tiling.solve_precision,
        num_warps=tiling.solve.num_warps,
        num_stages=tiling.solve.num_stages,
        **shared,
    )
    scores_kernel[(table.num_chunks * H,)](
        inputs.query,
        inputs.key,
        inputs.log_decay,
        table.chunks,
        prepared.attention,
        prepared.query_norms,
        prepared.key_norms,
        inputs.query.stride(),
        inputs.key.stride(),
        settings.scale,
        T,
        H,
        BLOCK_D=tiling.scores.block_d,
        num_warps=tiling.scores.num_warps,
        num_stages=tiling.scores.num_stages,
        **shared,
    )
    return prepared


def carry_state(
    inputs: Inputs, prepared: Prepared, table: ChunkTable, settings: Settings
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ``out`` (to be finished) and the final state."""
    D, (H, V), device = inputs.query.shape[3], inputs.value.shape[2:], inputs.value.device
    out = allocate_output(inputs.value.shape, dtype=settings.dtype, device=device)
    final_state = torch.empty((table.num_sequences, H, D, V), dtype=torch.float32, device=device)
    _launch_carry_state(inputs, prepared, table, (out, final_state, None, None), settings)
    return out, final_state


def carry_state_for_backward(
    inputs: Inputs, prepared: Prepared, table: ChunkTable, settings: Settings
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the state before every chunk and the rows ``d`` that the chunks write."""
    D, (H, V), device = inputs.query.shape[3], inputs.value.shape[2:], inputs.value.device
    states = torch.empty((table.num_chunks, H, D, V), dtype=torch.float32, device=device)
    delta = allocate_output(inputs.value.shape, dtype=settings.dtype, device=device)
    _launch_carry_state(inputs, prepared, table, (None, None, states, delta), settings)
    return states, delta


def _launch_carry_state(
    inputs: Inputs,
    prepared: Prepared,
    table: ChunkTable,
    results: tuple[torch.Tensor | None, ...],
    settings: Settings,
) -> None:
    (_, T, H, V), is_backward = inputs.value.shape, results[0] is None
    tiles = settings.tiling.carry_again if is_backward else settings.tiling.carry
    carry_state_kernel[(table.num_sequences * H * triton.cdiv(V, tiles.block_v),)](
        inputs.query,
        inputs.key,
        inputs.value,
        table.sequences,
        *prepared,
        inputs.initial_state,
        *results,
        inputs.query.stride(),
        inputs.key.stride(),
        inputs.value.stride(),
        settings.scale,
        T,
        H,
        V=V,
        BLOCK_D=tiles.block_d,
        BLOCK_V=tiles.block_v,
        HAS_INITIAL=inputs.initial_state is not None,
        FOR_BACKWARD=is_backward,
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
        **carried_constants(tiles, settings),
        **constants(inputs, table, settings),
    )
