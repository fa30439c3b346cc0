"""The call that the fast gated delta rules share: its result and the refusal of a call that means nothing.

Letters: ``B`` batch, ``T`` tokens, ``G`` query/key heads, ``H`` value heads, ``D`` query/key width, ``V`` value width,
``N`` packed sequences.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import torch

__all__ = ["L2_NORM_EPS", "DeltaRuleOutput", "accumulator_dtype", "check_delta_rule_call"]

L2_NORM_EPS = 1e-6
"""``eps`` of the normalisation of queries and keys, ``x / sqrt(sum x^2 + eps)``."""

_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class DeltaRuleOutput(NamedTuple):
    """Result of a gated delta rule.

    Attributes:
        out: ``(B, T, H, V)`` in the dtype of the values.
        final_state: ``(B, H, D, V)`` after the last token; float64 for float64 inputs, else float32.
    """

    out: torch.Tensor
    final_state: torch.Tensor


def accumulator_dtype(storage: torch.dtype) -> torch.dtype:
    """Returns the dtype of sums and states: float64 for float64 storage, else float32."""
    return torch.float64 if storage == torch.float64 else torch.float32


def check_delta_rule_call(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    log_decay: torch.Tensor | None,
    beta: torch.Tensor,
    *,
    scale: float,
    initial_state: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
) -> None:
    """Refuses a call whose shapes, dtypes or devices do not belong together.

    ``log_decay``, ``beta`` and ``initial_state`` may be float32 beside 16-bit queries, keys and values.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: a shape, dtype, device, offset or the scale is not what the operation needs.
    """
    tensors = {"query": query, "key": key, "value": value, "beta": beta}
    tensors |= {} if log_decay is None else {"log_decay": log_decay}
    tensors |= {} if initial_state is None else {"initial_state": initial_state}
    for name, tensor in tensors.items():
        _check_kind(name, tensor, query)
    if query.ndim != 4 or min(query.shape) < 1:
        raise ValueError(f"query: got shape {tuple(query.shape)}, expected (B, T, G, D) without an empty axis")
    B, T, G, D = query.shape
    _check_shape("key", key, (B, T, G, D))
    if value.ndim != 4 or value.shape[:2] != (B, T) or min(value.shape) < 1:
        raise ValueError(f"value: got shape {tuple(value.shape)}, expected ({B}, {T}, H, V) without an empty axis")
    H, V = value.shape[2:]
    if H % G:
        raise ValueError(f"value: got {H} heads, expected a multiple of the {G} heads of query")
    _check_shape("beta", beta, (B, T, H))
    if log_decay is not None:
        _check_shape("log_decay", log_decay, (B, T, H))
    if not math.isfinite(scale):
        raise ValueError(f"scale: got {scale}, expected a finite number")
    sequences = B if cu_seqlens is None else _count_sequences(cu_seqlens, batch=B, tokens=T)
    if initial_state is not None:
        _check_shape("initial_state", initial_state, (sequences, H, D, V))


def _check_kind(name: str, tensor: torch.Tensor, query: torch.Tensor) -> None:
    if not isinstance(tensor, torch.Tensor) or tensor.dtype not in _FLOATS:
        got = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise TypeError(f"{name}: got {got}, expected a floating-point tensor")
    if tensor.device != query.device:
        raise ValueError(f"{name}: got device {tensor.device}, expected {query.device} as query")
    may_be_wider = name in {"log_decay", "beta", "initial_state"} and tensor.dtype == torch.float32
    if tensor.dtype != query.dtype and not may_be_wider:
        raise ValueError(f"{name}: got dtype {tensor.dtype}, expected {query.dtype} as query")


def _check_shape(name: str, tensor: torch.Tensor, expected: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != expected:
        raise ValueError(f"{name}: got shape {tuple(tensor.shape)}, expected {expected}")


def _count_sequences(cu_seqlens: torch.Tensor, *, batch: int, tokens: int) -> int:
    if batch != 1:
        raise ValueError(f"cu_seqlens: got it with a batch of {batch}, expected packed sequences in a batch of 1")
    if cu_seqlens.ndim != 1 or cu_seqlens.numel() < 2 or cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"cu_seqlens: got {cu_seqlens.dtype} of shape {tuple(cu_seqlens.shape)}, expected integers in (N + 1,)"
        )
    offsets = cu_seqlens.tolist()
    if offsets[0] != 0 or offsets[-1] != tokens or any(a > b for a, b in pairwise(offsets)):
        raise ValueError(f"cu_seqlens: got {offsets}, expected offsets that rise from 0 to the {tokens} tokens")
    return len(offsets) - 1
