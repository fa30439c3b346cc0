"""Chunked gated delta rule in Triton: two kernels forward, three backward.

The mathematics is in ``chunked_delta_rule.py``, kernels and roundings in ``kernels/delta_rule/forward.py`` and
``kernels/delta_rule/backward.py``. Between the passes only the chunk inverses, the masked query-key products and the
summed decays are kept, ``C`` values per token and head each; the backward pass computes the states anew.

Letters: ``B`` batch, ``T`` tokens, ``G`` query/key heads, ``H`` value heads, ``D`` query/key width, ``V`` value width,
``C`` tokens of a chunk.
"""

from typing import Protocol

import torch

from optimized.delta_rule_call import DeltaRuleOutput, check_delta_rule_call
from optimized.kernels.delta_rule.autograd import launch_gated_delta_rule
from optimized.kernels.delta_rule.tiling import CHUNK_SIZES, MAX_WIDTH, default_chunk_size
from optimized.kernels.precision import STORAGE_DTYPES
from optimized.kernels.target import refuse_device

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
    del key, log_decay, beta, scale, initial_state, normalize_qk
    if cu_seqlens is not None:
        return "cu_seqlens: got packed sequences, expected None: this kernel takes one sequence per batch row"
    if query.dtype not in STORAGE_DTYPES:
        return f"query: got dtype {query.dtype}, expected float32, bfloat16 or float16"
    for name, letter, width in (("query", "D", query.shape[-1]), ("value", "V", value.shape[-1])):
        if width > MAX_WIDTH:
            return f"{name}: got {letter} = {width}, expected at most {MAX_WIDTH}"
    return refuse_device(query.device)


def make_gated_delta_rule(*, chunk_size: int | None = None) -> GatedDeltaRule:
    """Returns ``gated_delta_rule`` with another chunk size; its results differ by rounding only.

    Args:
        chunk_size: 16, 32 or 64 tokens; None chooses by the storage dtype.

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
        refusal = supports(query, key, value, log_decay, beta, scale=scale, cu_seqlens=cu_seqlens)
        if refusal is not None:
            raise ValueError(refusal)
        return launch_gated_delta_rule(
            query,
            key,
            value,
            torch.zeros_like(beta) if log_decay is None else log_decay,
            beta,
            initial_state,
            scale=scale,
            normalize_qk=normalize_qk,
            chunk_size=chunk_size or default_chunk_size(query.dtype),
        )

    return chunked


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
        query: ``(B, T, G, D)``, ``D`` up to 128; any strides.
        key: ``(B, T, G, D)``.
        value: ``(B, T, H, V)``, ``V`` up to 128; value head ``h`` uses query/key head ``h // (H / G)``.
        log_decay: ``(B, T, H)`` in the storage dtype or float32, or None for no decay; -inf forgets everything.
        beta: ``(B, T, H)`` in the storage dtype or float32.
        scale: factor of the output.
        initial_state: ``(B, H, D, V)`` in the storage dtype or float32, before the first token; None for zero.
        normalize_qk: divide queries and keys by ``sqrt(sum x^2 + 1e-6)`` first.
        cu_seqlens: must be None: packed sequences are refused.

    Returns:
        ``(out, final_state)``: ``(B, T, H, V)`` in the storage dtype and ``(B, H, D, V)`` in float32.

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
