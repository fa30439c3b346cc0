"""Launches of the gated delta rule's five kernels, and the autograd function around them.

Forward: ``prepare``, ``carry_state``. Backward: ``carry_state`` again, now storing states, ``carry_cotangent`` and
``gradient``. Arguments are checked by the caller.

Letters: ``B`` batch, ``T`` tokens, ``G`` query/key heads, ``H`` value heads, ``D`` query/key width, ``V`` value width,
``C`` tokens of a chunk.
"""

from typing import Any, NamedTuple, cast

import torch
import triton
from torch.autograd.function import FunctionCtx, once_differentiable

from optimized.delta_rule_call import L2_NORM_EPS, DeltaRuleOutput
from optimized.gated_delta_rule_backward import carry_cotangent_kernel
from optimized.gated_delta_rule_forward import carry_state_kernel, prepare_kernel
from optimized.gated_delta_rule_gradient import gradient_kernel
from optimized.gated_delta_rule_tiling import DeltaRuleTiling, choose_tiling
from optimized.precision import (
    allocate_output,
    finish_output,
    kernel_input,
    kernels_are_interpreted,
    non_stop_arithmetic,
    triton_dtype,
)

__all__ = ["launch_gated_delta_rule"]


class _Inputs(NamedTuple):
    """Tensors as kernels read them."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    log_decay: torch.Tensor
    beta: torch.Tensor
    initial_state: torch.Tensor | None


class _Chunks(NamedTuple):
    """What ``prepare`` stores: summed log decays ``(B, H, chunks, C)`` and operands ``(B, H, chunks, C, C)``."""

    from_start: torch.Tensor
    to_end: torch.Tensor
    inverse: torch.Tensor
    attention: torch.Tensor


class _Settings(NamedTuple):
    """What all launches of one call share."""

    dtype: torch.dtype
    scale: float
    norm_eps: float
    tiling: DeltaRuleTiling


def launch_gated_delta_rule(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    log_decay: torch.Tensor,
    beta: torch.Tensor,
    initial_state: torch.Tensor | None,
    *,
    scale: float,
    normalize_qk: bool,
    chunk_size: int,
) -> DeltaRuleOutput:
    """Runs the gated delta rule on checked arguments; differentiable once."""
    tiling = choose_tiling(
        chunk_size=chunk_size,
        head_width=query.shape[3],
        value_width=value.shape[3],
        num_states=value.shape[0] * value.shape[2],
        dtype=query.dtype,
    )
    settings = _Settings(query.dtype, float(scale), L2_NORM_EPS if normalize_qk else 0.0, tiling)
    tensors = (query, key, value, log_decay, beta, initial_state)
    out, final_state = _GatedDeltaRule.apply(*tensors, settings)  # type: ignore[no-untyped-call]  # torch leaves it so
    return DeltaRuleOutput(out, final_state)


class _GatedDeltaRule(torch.autograd.Function):
    """Keeps the arguments and the results of ``prepare``; states are computed again in the backward pass."""

    @staticmethod
    def forward(ctx: FunctionCtx, *arguments: torch.Tensor | _Settings | None) -> tuple[torch.Tensor, torch.Tensor]:
        tensors, settings = cast("tuple[torch.Tensor, ...]", arguments[:-1]), cast("_Settings", arguments[-1])
        inputs = _as_inputs(*tensors)
        with non_stop_arithmetic():
            chunks = _prepare(inputs, settings)
            out, final_state = _carry_state(inputs, chunks, settings)
        ctx.save_for_backward(*tensors, *chunks)
        ctx.settings = settings  # type: ignore[attr-defined]  # torch lets a context carry attributes
        return finish_output(out, dtype=settings.dtype), final_state

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401 (torch hands its own node, with the attributes that forward set)
        out_gradient: torch.Tensor,
        final_gradient: torch.Tensor,
    ) -> tuple[torch.Tensor | None, ...]:
        tensors, chunks = ctx.saved_tensors[:6], _Chunks(*ctx.saved_tensors[6:])
        inputs, settings = _as_inputs(*tensors), ctx.settings
        with non_stop_arithmetic():
            states, delta = _carry_state_for_backward(inputs, chunks, settings)
            out_gradient = kernel_input(out_gradient)
            carried = _carry_cotangent(inputs, chunks, out_gradient, final_gradient.contiguous(), tensors, settings)
            state_gradients, residual_gradient, value_gradient, initial_gradient = carried
            products = (states, delta, out_gradient, state_gradients, residual_gradient)
            query_gradient, key_gradient, decay_gradient, beta_gradient = _gradients(
                inputs, chunks, products, tensors, settings
            )
        gradients = (query_gradient, key_gradient, value_gradient, decay_gradient, beta_gradient, initial_gradient)
        finished = (
            None if gradient is None else finish_output(gradient, dtype=tensor.dtype)
            for gradient, tensor in zip(gradients, tensors, strict=True)
        )
        return (*finished, None)


def _as_inputs(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    log_decay: torch.Tensor,
    beta: torch.Tensor,
    initial_state: torch.Tensor | None,
) -> _Inputs:
    return _Inputs(
        kernel_input(query),
        kernel_input(key),
        kernel_input(value),
        kernel_input(log_decay).contiguous(),
        kernel_input(beta).contiguous(),
        None if initial_state is None else kernel_input(initial_state).contiguous(),
    )


def _constants(inputs: _Inputs, settings: _Settings) -> dict[str, Any]:
    """Returns the compile-time arguments of every kernel; fused multiply-adds are pinned, their default may change."""
    return {
        "HEADS_PER_KEY": inputs.value.shape[2] // inputs.query.shape[2],
        "D": inputs.query.shape[3],
        "CHUNK": settings.tiling.chunk_size,
        "BLOCK_D": settings.tiling.block_d,
        "NORM_EPS": settings.norm_eps,
        "DTYPE": triton_dtype(settings.dtype),
        "INTERPRETED": kernels_are_interpreted(),
        "enable_fp_fusion": True,
    }


def _sizes(inputs: _Inputs, chunks: _Chunks, settings: _Settings) -> tuple[float, int, int, int]:
    """Returns the run-time sizes of every kernel: scale, tokens, heads, chunks."""
    return settings.scale, *inputs.value.shape[1:3], chunks.from_start.shape[2]


def _prepare(inputs: _Inputs, settings: _Settings) -> _Chunks:
    B, T, H = inputs.beta.shape
    C = settings.tiling.chunk_size
    shape = (B, H, triton.cdiv(T, C), C)
    device = inputs.query.device
    chunks = _Chunks(
        torch.empty(shape, dtype=torch.float32, device=device),
        torch.empty(shape, dtype=torch.float32, device=device),
        allocate_output((*shape, C), dtype=settings.dtype, device=device),
        allocate_output((*shape, C), dtype=settings.dtype, device=device),
    )
    prepare_kernel[(B * H * shape[2],)](
        *inputs[:2],
        *inputs[3:5],
        *chunks,
        inputs.query.stride(),
        inputs.key.stride(),
        *_sizes(inputs, chunks, settings),
        SOLVE_PRECISION=settings.tiling.solve_precision,
        num_warps=settings.tiling.prepare_warps,
        **_constants(inputs, settings),
    )
    return chunks


def _carry_state(inputs: _Inputs, chunks: _Chunks, settings: _Settings) -> tuple[torch.Tensor, torch.Tensor]:
    B, _, H, V = inputs.value.shape
    device = inputs.value.device
    out = allocate_output(inputs.value.shape, dtype=settings.dtype, device=device)
    final_state = torch.empty((B, H, inputs.query.shape[3], V), dtype=torch.float32, device=device)
    _launch_carry_state(inputs, chunks, (out, final_state, None, None), settings)
    return out, final_state


def _carry_state_for_backward(
    inputs: _Inputs, chunks: _Chunks, settings: _Settings
) -> tuple[torch.Tensor, torch.Tensor]:
    V, D, device = inputs.value.shape[3], inputs.query.shape[3], inputs.value.device
    states = torch.empty((*chunks.to_end.shape[:3], D, V), dtype=torch.float32, device=device)
    delta = allocate_output((*chunks.to_end.shape, V), dtype=settings.dtype, device=device)
    _launch_carry_state(inputs, chunks, (None, None, states, delta), settings)
    return states, delta


def _launch_carry_state(
    inputs: _Inputs, chunks: _Chunks, results: tuple[torch.Tensor | None, ...], settings: _Settings
) -> None:
    B, _, H, V = inputs.value.shape
    tiling = settings.tiling
    carry_state_kernel[(B * H * triton.cdiv(V, tiling.block_state),)](
        *inputs[:3],
        inputs.beta,
        *chunks,
        inputs.initial_state,
        *results,
        inputs.query.stride(),
        inputs.key.stride(),
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


def _carry_cotangent(
    inputs: _Inputs,
    chunks: _Chunks,
    out_gradient: torch.Tensor,
    final_gradient: torch.Tensor,
    tensors: tuple[torch.Tensor | None, ...],
    settings: _Settings,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
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
        *inputs[:2],
        inputs.beta,
        *chunks,
        out_gradient,
        final_gradient,
        state_gradients,
        residual_gradient,
        value_gradient,
        initial_gradient,
        inputs.query.stride(),
        inputs.key.stride(),
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


def _gradients(
    inputs: _Inputs,
    chunks: _Chunks,
    products: tuple[torch.Tensor, ...],
    tensors: tuple[torch.Tensor, ...],
    settings: _Settings,
) -> tuple[torch.Tensor, ...]:
    """Returns the gradients of queries, keys, log decays and beta."""
    tiling = settings.tiling
    results = tuple(
        allocate_output(tensor.shape, dtype=tensor.dtype, device=tensor.device)
        for tensor in (tensors[0], tensors[1], tensors[3], tensors[4])
    )
    gradient_kernel[(chunks.to_end.shape[0] * inputs.query.shape[2] * chunks.to_end.shape[2],)](
        *inputs[:5],
        chunks.from_start,
        chunks.to_end,
        *products,
        *results,
        inputs.query.stride(),
        inputs.key.stride(),
        inputs.value.stride(),
        products[2].stride(),
        *_sizes(inputs, chunks, settings),
        V=inputs.value.shape[3],
        BLOCK_V=tiling.block_gradient,
        num_warps=tiling.gradient_warps,
        num_stages=1,
        **_constants(inputs, settings),
    )
    return results
