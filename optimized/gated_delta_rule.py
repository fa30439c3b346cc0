"""Chunked gated delta rule in Triton: three kernels forward, five backward.

The mathematics is in ``chunked_delta_rule.py``, kernels and roundings in ``kernels/delta_rule/``: forward ``solve``,
``scores`` and ``carry_state``, backward ``carry_state`` again, ``carry_cotangent``, ``pairs``, ``query_gradient`` and
``key_gradient``. Between the passes only the chunk inverses and the masked query-key products, ``C`` values per token
and head each, the summed decays and the norms are kept; the backward pass computes the states anew.

Letters: ``B`` batch, ``T`` tokens, ``G`` query/key heads, ``H`` value heads, ``D`` query/key width, ``V`` value width,
``N`` packed sequences, ``C`` tokens of a chunk.
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch.autograd.function import once_differentiable

from optimized.delta_rule_call import L2_NORM_EPS, DeltaRuleOutput, check_delta_rule_call
from optimized.kernels.delta_rule.chunks import chunk_table
from optimized.kernels.delta_rule.launch import (
    Prepared,
    Settings,
    as_inputs,
    carry_state,
    carry_state_for_backward,
    prepare,
    rows_are_aligned,
    strided_rows,
)
from optimized.kernels.delta_rule.launch_backward import (
    Recomputed,
    carry_cotangent,
    key_gradients,
    pair_gradients,
    query_gradient,
)
from optimized.kernels.delta_rule.tiling import (
    CHUNK_SIZES,
    MAX_WIDTH,
    choose_tiling,
    largest_chunk_size,
)
from optimized.kernels.precision import STORAGE_DTYPES, finish_output, non_stop_arithmetic
from optimized.kernels.target import architecture, num_multiprocessors, refuse_device

__all__ = ["GatedDeltaRule", "gated_delta_rule", "make_gated_delta_rule", "supports"]


class GatedDeltaRule(Protocol):
    """The call of the gated delta rule."""

    def __call__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        log_decay: torch.Tensor | None,
        beta: torch.Tensor,
        *,
        scale: float,
        initial_state: torch.Tensor | None = None,
        normalize_qk: bool = False,
        cu_seqlens: torch.Tensor | None = None,
    ) -> DeltaRuleOutput:
        """Returns ``(out, final_state)``."""
        ...


def supports(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    log_decay: torch.Tensor | None,
    beta: torch.Tensor,
    *,
    scale: float,
    initial_state: torch.Tensor | None = None,
    normalize_qk: bool = False,
    cu_seqlens: torch.Tensor | None = None,
) -> str | None:
    """Returns None for a call that ``gated_delta_rule`` can do, else a sentence that says why not."""
    del key, log_decay, beta, scale, initial_state, normalize_qk, cu_seqlens
    if query.dtype not in STORAGE_DTYPES:
        return f"query: got dtype {query.dtype}, expected float32, bfloat16 or float16"
    for name, letter, width in (("query", "D", query.shape[-1]), ("value", "V", value.shape[-1])):
        if width > MAX_WIDTH:
            return f"{name}: got {letter} = {width}, expected at most {MAX_WIDTH}"
    return refuse_device(query.device)


def make_gated_delta_rule(*, chunk_size: int | None = None) -> GatedDeltaRule:
    """Returns ``gated_delta_rule`` with another chunk size; its results differ by rounding only.

    Args:
        chunk_size: 16, 32 or 64 tokens; None takes the largest for the storage dtype and the width of the keys, and
            the returned function refuses a larger one: 64, 32 for ``D > 128``, 16 in float32.

    Raises:
        ValueError: ``chunk_size`` is another number.
    """
    if chunk_size is not None and chunk_size not in CHUNK_SIZES:
        raise ValueError(f"chunk_size: got {chunk_size}, expected one of {', '.join(map(str, CHUNK_SIZES))}")

    def chunked(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        log_decay: torch.Tensor | None,
        beta: torch.Tensor,
        *,
        scale: float,
        initial_state: torch.Tensor | None = None,
        normalize_qk: bool = False,
        cu_seqlens: torch.Tensor | None = None,
    ) -> DeltaRuleOutput:
        check_delta_rule_call(
            query, key, value, log_decay, beta, scale=scale, initial_state=initial_state, cu_seqlens=cu_seqlens
        )
        refusal = supports(query, key, value, log_decay, beta, scale=scale)
        if refusal is not None:
            raise ValueError(refusal)
        largest = largest_chunk_size(dtype=query.dtype, head_width=query.shape[3])
        if chunk_size is not None and chunk_size > largest:
            raise ValueError(
                f"chunk_size: got {chunk_size}, expected at most {largest} for D = {query.shape[3]} in {query.dtype}"
            )
        decays = torch.zeros_like(beta) if log_decay is None else log_decay
        tensors = (query, key, value, decays, beta, initial_state)
        call = _Call(float(scale), L2_NORM_EPS if normalize_qk else 0.0, chunk_size or largest)
        out, final_state = _GatedDeltaRule.apply(*tensors, cu_seqlens, call)  # type: ignore[no-untyped-call]  # as torch
        return DeltaRuleOutput(out, final_state)

    return chunked


class _Call(NamedTuple):
    """The options of one call."""

    scale: float
    norm_eps: float
    chunk_size: int


class _GatedDeltaRule(torch.autograd.Function):
    """Keeps the arguments and the results of ``prepare``; states are computed again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch hands its own node, which takes attributes)
        *arguments: Any,  # noqa: ANN401 (six tensors, of which the last may be None, offsets or None, and a Call)
    ) -> tuple[torch.Tensor, torch.Tensor]:
        *tensors, cu_seqlens, call = arguments
        query, value = tensors[0], tensors[2]
        table = chunk_table(
            batch=value.shape[0], tokens=value.shape[1], cu_seqlens=cu_seqlens, chunk_size=call.chunk_size
        )
        inputs = as_inputs(*tensors)
        tiling = choose_tiling(
            chunk_size=call.chunk_size,
            head_width=query.shape[3],
            value_width=value.shape[3],
            num_states=table.num_sequences * value.shape[2],
            num_multiprocessors=num_multiprocessors(value.device),
            dtype=value.dtype,
            arch=architecture(value.device),
            is_aligned=rows_are_aligned(*inputs[:3]),
        )
        settings = Settings(value.dtype, call.scale, call.norm_eps, tiling)
        with non_stop_arithmetic():
            prepared = prepare(inputs, table, settings)
            out, final_state = carry_state(inputs, prepared, table, settings)
        ctx.save_for_backward(*tensors, *prepared)
        ctx.table, ctx.settings = table, settings
        return finish_output(out, dtype=settings.dtype), final_state

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401 (torch hands its own node, which takes attributes)
        out_gradient: torch.Tensor,
        final_gradient: torch.Tensor,
    ) -> tuple[torch.Tensor | None, ...]:
        tensors, prepared = ctx.saved_tensors[:6], Prepared(*ctx.saved_tensors[6:])
        inputs, table, settings = as_inputs(*tensors), ctx.table, ctx.settings
        initial_dtype = None if tensors[5] is None else tensors[5].dtype
        if not rows_are_aligned(out_gradient):  # the tiling is made for rows that are, if queries and values have them
            out_gradient = out_gradient.contiguous()
        out_gradient, final_gradient = strided_rows(out_gradient), final_gradient.contiguous()
        with non_stop_arithmetic():
            recomputed = Recomputed(*carry_state_for_backward(inputs, prepared, table, settings))
            cotangents = carry_cotangent(inputs, prepared, table, out_gradient, final_gradient, initial_dtype, settings)
            pairs = pair_gradients(inputs, prepared, table, recomputed, cotangents, out_gradient, settings)
            queries, inflow = query_gradient(inputs, prepared, table, recomputed, pairs, out_gradient, settings)
            gate_dtypes = (tensors[3].dtype, tensors[4].dtype)
            keys, decays, rates = key_gradients(
                inputs, prepared, table, recomputed, cotangents, pairs, inflow, gate_dtypes, settings
            )
        gradients = (queries, keys, cotangents.value, decays, rates, cotangents.initial_state)
        finished = (
            None if gradient is None else finish_output(gradient, dtype=tensor.dtype)
            for gradient, tensor in zip(gradients, tensors, strict=True)
        )
        return (*finished, None, None)


_default = make_gated_delta_rule()


def gated_delta_rule(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    log_decay: torch.Tensor | None,
    beta: torch.Tensor,
    *,
    scale: float,
    initial_state: torch.Tensor | None = None,
    normalize_qk: bool = False,
    cu_seqlens: torch.Tensor | None = None,
) -> DeltaRuleOutput:
    """Gated delta rule, token after token: decay, delta write, read.

        S_t   = exp(log_decay_t) S_{t-1}
        S_t  += beta_t k_t (v_t - S_t^T k_t)^T
        out_t = scale S_t^T q_t

    float32, bfloat16 and float16 storage; the state, all sums and the triangular solve are float32. Gradients flow to
    every tensor argument, from both results, in the dtype of the argument; two runs give the same bits.

    Args:
        query: ``(B, T, G, D)``, ``D`` up to 256; any strides.
        key: ``(B, T, G, D)``.
        value: ``(B, T, H, V)``, ``V`` up to 256; value head ``h`` uses query/key head ``h // (H / G)``.
        log_decay: ``(B, T, H)`` in the storage dtype or float32, or None for no decay; -inf forgets everything.
        beta: ``(B, T, H)`` in the storage dtype or float32.
        scale: factor of the output.
        initial_state: ``(B, H, D, V)`` in the storage dtype or float32, before the first token; None for zero;
            ``(N, H, D, V)`` with ``cu_seqlens``.
        normalize_qk: divide queries and keys by ``sqrt(sum x^2 + 1e-6)`` first.
        cu_seqlens: ``(N + 1,)`` offsets of sequences packed in a batch of one; an empty sequence is legal and hands its
            initial state on.

    Returns:
        ``(out, final_state)``: ``(B, T, H, V)`` in the storage dtype and ``(B, H, D, V)``, or ``(N, H, D, V)``, in
        float32.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: arguments do not belong together, or ``supports`` says why not, in the same sentence.
    """
    return _default(
        query,
        key,
        value,
        log_decay,
        beta,
        scale=scale,
        initial_state=initial_state,
        normalize_qk=normalize_qk,
        cu_seqlens=cu_seqlens,
    )
