"""Launches of the gated delta rule's forward kernels, ``prepare`` and ``carry_state``, and what all launches share.

Arguments are checked by the caller, which also wraps the launches in ``non_stop_arithmetic``.

Letters: ``B`` batch, ``T`` tokens, ``G`` query/key heads, ``H`` value heads, ``D`` query/key width, ``V`` value width,
``N`` sequences, ``C`` tokens of a chunk.
"""

from typing import Any, Final, NamedTuple

import torch
import triton

from optimized.kernels.delta_rule.carry_state import carry_state_kernel
from optimized.kernels.delta_rule.chunks import ChunkTable
from optimized.kernels.delta_rule.prepare import prepare_kernel
from optimized.kernels.delta_rule.tiling import DeltaRuleTiling
from optimized.kernels.precision import allocate_output, kernel_input, kernels_are_interpreted, triton_dtype

__all__ = [
    "MAX_REGISTERS",
    "Inputs",
    "Prepared",
    "Settings",
    "as_inputs",
    "carry_state",
    "carry_state_for_backward",
    "constants",
    "prepare",
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
    """What ``prepare`` stores: decays summed ``(chunks, H, C)``, operands ``(chunks, H, C, C)``, norms ``(B, T, G)``.

    The norms are the factors ``1 / sqrt(sum x^2 + eps)`` of queries and keys, or None.
    """

    from_start: torch.Tensor
    to_end: torch.Tensor
    inverse: torch.Tensor
    attention: torch.Tensor
    query_norms: torch.Tensor | None
    key_norms: torch.Tensor | None


MAX_REGISTERS = 255
"""All that a thread can have: left to itself, ptxas spills a few to make room for one more program.

The kernel that carries a state is the exception: told so, it spills where it does not by itself.
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


def prepare(inputs: Inputs, table: ChunkTable, settings: Settings) -> Prepared:
    """Returns decays, inverses, masked query-key products and norms of all chunks."""
    B, T, H = inputs.beta.shape
    G, device, tiling = inputs.query.shape[2], inputs.query.device, settings.tiling
    shape = (table.num_chunks, H, tiling.chunk_size)
    sums = [torch.empty(shape, dtype=torch.float32, device=device) for _ in range(2)]
    squares = [allocate_output((*shape, shape[2]), dtype=settings.dtype, device=device) for _ in range(2)]
    norms: list[torch.Tensor | None] = [None, None]
    if settings.norm_eps > 0:
        norms = [torch.empty((B, T, G), dtype=torch.float32, device=device) for _ in range(2)]
    prepared = Prepared(*sums, *squares, *norms)
    prepare_kernel[(table.num_chunks * H,)](
        inputs.query,
        inputs.key,
        inputs.log_decay,
        inputs.beta,
        table.chunks,
        *prepared,
        inputs.query.stride(),
        inputs.key.stride(),
        settings.scale,
        T,
        H,
        BLOCK_D=tiling.prepare.block_d,
        NORM_EPS=settings.norm_eps,
        SOLVE_PRECISION=tiling.solve_precision,
        num_warps=tiling.prepare.num_warps,
        maxnreg=MAX_REGISTERS,
        num_stages=tiling.prepare.num_stages,
        **constants(inputs, table, settings),
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
    (_, T, H, V), tiles = inputs.value.shape, settings.tiling.carry
    carry_state_kernel[(table.num_sequences * H * triton.cdiv(V, tiles.block_v),)](
        inputs.query,
        inputs.key,
        inputs.value,
        inputs.beta,
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
        IS_NORMALIZED=settings.norm_eps > 0,
        HAS_INITIAL=inputs.initial_state is not None,
        FOR_BACKWARD=results[0] is None,
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
        **constants(inputs, table, settings),
    )
