"""Launches of the gated delta rule's kernels.

Forward: ``prepare``, ``carry_state``. Backward: ``carry_state`` again, now storing states, ``carry_cotangent`` and
``gradient``. Arguments are checked by the caller, which also wraps the launches in ``non_stop_arithmetic``.

Letters: ``B`` batch, ``T`` tokens, ``G`` query/key heads, ``H`` value heads, ``D`` query/key width, ``V`` value width,
``C`` tokens of a chunk.
"""

from typing import Any, NamedTuple

import torch
import triton

from optimized.kernels.delta_rule.backward import carry_cotangent_kernel
from optimized.kernels.delta_rule.forward import carry_state_kernel, prepare_kernel
from optimized.kernels.delta_rule.gradient import gradient_kernel
from optimized.kernels.delta_rule.tiling import DeltaRuleTiling
from optimized.kernels.precision import (
    allocate_output,
    kernel_input,
    kernels_are_interpreted,
    triton_dtype,
)

__all__ = [
    "Chunks",
    "Inputs",
    "Settings",
    "as_inputs",
    "carry_cotangent",
    "carry_state",
    "carry_state_for_backward",
    "gradients",
    "prepare",
]


class Inputs(NamedTuple):
    """Tensors as kernels read them."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    log_decay: torch.Tensor
    beta: torch.Tensor
    initial_state: torch.Tensor | None


class Chunks(NamedTuple):
    """What ``prepare`` stores: summed log decays ``(B, H, chunks, C)``, operands ``(B, H, chunks, C, C)``.

    ``query`` and ``key`` ``(B, T, G, D)`` are the normalised ones, or the inputs themselves.
    """

    from_start: torch.Tensor
    to_end: torch.Tensor
    inverse: torch.Tensor
    attention: torch.Tensor
    query: torch.Tensor
    key: torch.Tensor


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
        kernel_input(query),
        kernel_input(key),
        kernel_input(value),
        kernel_input(log_decay).contiguous(),
        kernel_input(beta).contiguous(),
        None if initial_state is None else kernel_input(initial_state).contiguous(),
    )


def _constants(inputs: Inputs, settings: Settings) -> dict[str, Any]:
    """Returns the compile-time arguments of every kernel; fused multiply-adds are pinned, their default may change."""
    return {
        "HEADS_PER_KEY": inputs.value.shape[2] // inputs.query.shape[2],
        "D": inputs.query.shape[3],
        "CHUNK": settings.tiling.chunk_size,
        "BLOCK_D": settings.tiling.block_d,
        "DTYPE": triton_dtype(settings.dtype),
        "INTERPRETED": kernels_are_interpreted(),
        "enable_fp_fusion": True,
    }


def _sizes(inputs: Inputs, chunks: Chunks, settings: Settings) -> tuple[float, int, int, int]:
    """Returns the run-time sizes of every kernel: scale, tokens, heads, chunks."""
    return settings.scale, *inputs.value.shape[1:3], chunks.from_start.shape[2]


def prepare(inputs: Inputs, settings: Settings) -> Chunks:
    """Returns decays, inverses and masked query-key products of all chunks."""
    B, T, H = inputs.beta.shape
    C = settings.tiling.chunk_size
    shape = (B, H, triton.cdiv(T, C), C)
    sums = [torch.empty(shape, dtype=torch.float32, device=inputs.query.device) for _ in range(2)]
    squares = [allocate_output((*shape, C), dtype=settings.dtype, device=inputs.query.device) for _ in range(2)]
    operands = [inputs.query, inputs.key]
    if settings.norm_eps > 0:
        operands = [allocate_output(x.shape, dtype=settings.dtype, device=x.device) for x in operands]
    chunks = Chunks(*sums, *squares, *operands)
    prepare_kernel[(B * H * shape[2],)](
        *inputs[:2],
        *inputs[3:5],
        *chunks,
        inputs.query.stride(),
        inputs.key.stride(),
        *_sizes(inputs, chunks, settings),
        NORM_EPS=settings.norm_eps,
        SOLVE_PRECISION=settings.tiling.solve_precision,
        num_warps=settings.tiling.prepare_warps,
        **_constants(inputs, settings),
    )
    return chunks


def carry_state(inputs: Inputs, chunks: Chunks, settings: Settings) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ``out`` (to be finished) and the final state."""
    B, _, H, V = inputs.value.shape
    device = inputs.value.device
    out = allocate_output(inputs.value.shape, dtype=settings.dtype, device=device)
    final_state = torch.empty((B, H, inputs.query.shape[3], V), dtype=torch.float32, device=device)
    _launch_carry_state(inputs, chunks, (out, final_state, None, None), settings)
    return out, final_state


def carry_state_for_backward(inputs: Inputs, chunks: Chunks, settings: Settings) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the state before every chunk and the rows ``d`` that the chunks write."""
    V, D, device = inputs.value.shape[3], inputs.query.shape[3], inputs.value.device
    states = torch.empty((*chunks.to_end.shape[:3], D, V), dtype=torch.float32, device=device)
    delta = allocate_output((*chunks.to_end.shape, V), dtype=settings.dtype, device=device)
    _launch_carry_state(inputs, chunks, (None, None, states, delta), settings)
    return states, delta


def _launch_carry_state(
    inputs: Inputs, chunks: Chunks, results: tuple[torch.Tensor | None, ...], settings: Settings
) -> None:
    B, _, H, V = inputs.value.shape
    tiling = settings.tiling
    carry_state_kernel[(B * H * triton.cdiv(V, tiling.block_state),)](
        chunks.query,
        chunks.key,
        inputs.value,
        inputs.beta,
        *chunks[:4],
        inputs.initial_state,
        *results,
        chunks.query.stride(),
        chunks.key.stride(),
        inputs.value.stride(),
        *_sizes(inputs, chunks, settings),
        V=V,
        BLOCK_V=tiling.block_state,
        HAS_INITIAL=inputs.initial_state is not None,
        FOR_BACKWARD=results[0] is None,
        num_warps=tiling.state_warps,
        num_stages=tiling.state_stages,
        **_constants(inputs, settings),
    )


def carry_cotangent(
    inputs: Inputs,
    chunks: Chunks,
    out_gradient: torch.Tensor,
    final_gradient: torch.Tensor,
    tensors: tuple[torch.Tensor | None, ...],
    settings: Settings,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Returns the cotangents after every chunk, ``dr``, and the gradients of values and initial state."""
    B, _, H, V = inputs.value.shape
    D, device, tiling = inputs.query.shape[3], inputs.value.device, settings.tiling
    initial_state = tensors[5]
    state_gradients = torch.empty((*chunks.to_end.shape[:3], D, V), dtype=torch.float32, device=device)
    residual_gradient = allocate_output((*chunks.to_end.shape, V), dtype=settings.dtype, device=device)
    value_gradient = allocate_output(inputs.value.shape, dtype=settings.dtype, device=device)
    initial_gradient = None
    if initial_state is not None:
        initial_gradient = allocate_output(initial_state.shape, dtype=initial_state.dtype, device=device)
    carry_cotangent_kernel[(B * H * triton.cdiv(V, tiling.block_state),)](
        chunks.query,
        chunks.key,
        inputs.beta,
        *chunks[:4],
        out_gradient,
        final_gradient,
        state_gradients,
        residual_gradient,
        value_gradient,
        initial_gradient,
        chunks.query.stride(),
        chunks.key.stride(),
        out_gradient.stride(),
        *_sizes(inputs, chunks, settings),
        V=V,
        BLOCK_V=tiling.block_state,
        HAS_INITIAL=initial_state is not None,
        num_warps=tiling.state_warps,
        num_stages=tiling.state_stages,
        **_constants(inputs, settings),
    )
    return state_gradients, residual_gradient, value_gradient, initial_gradient


def gradients(
    inputs: Inputs,
    chunks: Chunks,
    products: tuple[torch.Tensor, ...],
    tensors: tuple[torch.Tensor, ...],
    settings: Settings,
) -> tuple[torch.Tensor, ...]:
    """Returns the gradients of queries, keys, log decays and beta."""
    tiling = settings.tiling
    arguments = (tensors[0], tensors[1], tensors[3], tensors[4])
    results = tuple(allocate_output(x.shape, dtype=x.dtype, device=x.device) for x in arguments)
    gradient_kernel[(chunks.to_end.shape[0] * inputs.query.shape[2] * chunks.to_end.shape[2],)](
        chunks.query,
        chunks.key,
        *inputs[:5],
        chunks.from_start,
        chunks.to_end,
        *products,
        *results,
        chunks.query.stride(),
        chunks.key.stride(),
        inputs.query.stride(),
        inputs.key.stride(),
        inputs.value.stride(),
        products[2].stride(),
        *_sizes(inputs, chunks, settings),
        V=inputs.value.shape[3],
        NORM_EPS=settings.norm_eps,
        BLOCK_V=tiling.block_gradient,
        num_warps=tiling.gradient_warps,
        num_stages=1,
        **_constants(inputs, settings),
    )
    return results
