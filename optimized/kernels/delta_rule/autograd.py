"""The autograd function around the gated delta rule's kernels.

Letters: ``B`` batch, ``T`` tokens, ``H`` value heads, ``D`` query/key width, ``V`` value width.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from optimized.delta_rule_call import L2_NORM_EPS, DeltaRuleOutput
from optimized.kernels.delta_rule.launch import (
    Chunks,
    Settings,
    as_inputs,
    carry_cotangent,
    carry_state,
    carry_state_for_backward,
    gradients,
    prepare,
)
from optimized.kernels.delta_rule.tiling import choose_tiling
from optimized.kernels.precision import finish_output, kernel_input, non_stop_arithmetic

__all__ = ["launch_gated_delta_rule"]


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
    settings = Settings(query.dtype, float(scale), L2_NORM_EPS if normalize_qk else 0.0, tiling)
    tensors = (query, key, value, log_decay, beta, initial_state)
    out, final_state = _GatedDeltaRule.apply(*tensors, settings)  # type: ignore[no-untyped-call]  # torch leaves it so
    return DeltaRuleOutput(out, final_state)


class _GatedDeltaRule(torch.autograd.Function):
    """Keeps the arguments and the results of ``prepare``; states are computed again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch hands its own node, which takes attributes)
        *arguments: Any,  # noqa: ANN401 (six tensors, of which the last may be None, and the settings)
    ) -> tuple[torch.Tensor, torch.Tensor]:
        *tensors, settings = arguments
        inputs = as_inputs(*tensors)
        with non_stop_arithmetic():
            chunks = prepare(inputs, settings)
            out, final_state = carry_state(inputs, chunks, settings)
        ctx.save_for_backward(*tensors, *chunks)
        ctx.settings = settings
        return finish_output(out, dtype=settings.dtype), final_state

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401 (torch hands its own node, which takes attributes)
        out_gradient: torch.Tensor,
        final_gradient: torch.Tensor,
    ) -> tuple[torch.Tensor | None, ...]:
        tensors, chunks = ctx.saved_tensors[:6], Chunks(*ctx.saved_tensors[6:])
        inputs, settings = as_inputs(*tensors), ctx.settings
        with non_stop_arithmetic():
            states, delta = carry_state_for_backward(inputs, chunks, settings)
            out_gradient = kernel_input(out_gradient)
            carried = carry_cotangent(inputs, chunks, out_gradient, final_gradient.contiguous(), tensors, settings)
            state_gradients, residual_gradient, value_gradient, initial_gradient = carried
            products = (states, delta, out_gradient, state_gradients, residual_gradient)
            query_gradient, key_gradient, decay_gradient, beta_gradient = gradients(
                inputs, chunks, products, tensors, settings
            )
        results = (query_gradient, key_gradient, value_gradient, decay_gradient, beta_gradient, initial_gradient)
        finished = (
            None if gradient is None else finish_output(gradient, dtype=tensor.dtype)
            for gradient, tensor in zip(results, tensors, strict=True)
        )
        return (*finished, None)
