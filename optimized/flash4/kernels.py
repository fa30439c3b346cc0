"""FlashAttention 4 itself: where it runs, and the two functions of it that are called.

What its kernels do, from the source of 4.0.0b36. Scores, softmax, row sums and outputs are float32; the weights are
rounded to the storage format before their product with the values, and in the backward pass weights and score
gradients before theirs; the row term of the backward pass is formed from the stored output. The gradient of the
queries (and, with grouped heads, of keys and values) is added up in float32 memory by all programs in no fixed order,
unless torch is told to be deterministic. Hopper takes every exponential from the hardware (``ex2.approx``); Blackwell
computes a part of them by a cubic polynomial with a relative error of 8.8e-5, which is below half an ulp of bfloat16.
"""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Final, NamedTuple

import torch
from torch import Tensor

from optimized.eager.checks import Window

__all__ = [
    "SINK_DTYPES",
    "STORAGE_DTYPES",
    "Kernels",
    "architecture",
    "call_dense",
    "call_packed",
    "load_kernels",
    "refuse_call",
    "refuse_machine",
]

STORAGE_DTYPES: Final = (torch.bfloat16, torch.float16)
"""Formats of query, key and value."""

SINK_DTYPES: Final = (torch.bfloat16, torch.float16, torch.float32)
"""Formats of sinks."""

ARCHITECTURES: Final = ("sm_90", "sm_100", "sm_103", "sm_110")
"""Where the kernels have a backward pass with sinks and with cotangents of the logsumexp."""


class Kernels(NamedTuple):
    """The functions of FlashAttention 4 that the adapter calls; both return the output and the logsumexp.

    Attributes:
        dense: ``flash_attn_func``.
        packed: ``flash_attn_varlen_func``.
    """

    dense: Callable[..., tuple[Tensor, Tensor]]
    packed: Callable[..., tuple[Tensor, Tensor]]


def load_kernels() -> Kernels:
    """Imports FlashAttention 4, which takes seconds the first time.

    Raises:
        ImportError: it is not installed.
    """
    cute = importlib.import_module("flash_attn.cute")
    return Kernels(dense=cute.flash_attn_func, packed=cute.flash_attn_varlen_func)


def architecture(device: torch.device) -> str:
    """Returns the name of a GPU's architecture, for instance ``"sm_90"``."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def refuse_machine(device: torch.device) -> str | None:
    """Returns None if FlashAttention 4 is there and runs on ``device``, else a sentence that says why not."""
    if device.type != "cuda":
        return f"device: got {device.type}, expected cuda: FlashAttention 4 runs on GPUs only"
    arch = architecture(device)
    if arch not in ARCHITECTURES:
        return f"device: got {arch}, expected one of {', '.join(ARCHITECTURES)}"
    if not _is_installed():
        return "flash_attn.cute: got no such module, expected FlashAttention 4, the package flash-attn-4"
    return None


def refuse_call(query: Tensor, key: Tensor, value: Tensor, *, scale: float, sinks: Tensor | None) -> str | None:
    """Returns None, or a sentence that says what no kernel computes, on any machine."""
    dtypes = [tensor.dtype for tensor in (query, key, value)]
    tensors = [query, key, value] if sinks is None else [query, key, value, sinks]
    devices = sorted({str(tensor.device) for tensor in tensors})
    if len(set(dtypes)) > 1 or dtypes[0] not in STORAGE_DTYPES:
        return f"dtype: got {', '.join(map(str, dtypes))}, expected bfloat16 or float16, one for query, key and value"
    if sinks is not None and sinks.dtype not in SINK_DTYPES:
        return f"sinks: got {sinks.dtype}, expected bfloat16, float16 or float32"
    if not scale > 0:
        return f"scale: got {scale}, expected a positive number: the kernels look for the largest score before scaling"
    if len(devices) > 1:
        return f"device: got {', '.join(devices)}, expected the same device for all tensors"
    return None


def call_dense(
    query: Tensor, key: Tensor, value: Tensor, *, scale: float, window: Window, sinks: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Returns ``out`` (B, T, H, V) and ``lse`` (B, H, T) of batched sequences."""
    with torch.cuda.device_of(query):  # type: ignore[no-untyped-call]  # torch
        return load_kernels().dense(query, key, value, **_options(scale=scale, window=window, sinks=sinks))


def call_packed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    scale: float,
    window: Window,
    sinks: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Returns ``out`` (tokens, H, V) and ``lse`` (H, tokens) of packed sequences; offsets are int32."""
    with torch.cuda.device_of(query):  # type: ignore[no-untyped-call]  # torch
        return load_kernels().packed(
            query,
            key,
            value,
            cu_seqlens_q=cu_seqlens_q,
            cu_seqlens_k=cu_seqlens_k,
            max_seqlen_q=max_seqlen_q,
            max_seqlen_k=max_seqlen_k,
            **_options(scale=scale, window=window, sinks=sinks),
        )


def _options(*, scale: float, window: Window, sinks: Tensor | None) -> dict[str, object]:
    # The kernels' windows are ours: bottom-right alignment, None for unbounded, and (None, 0) becomes their causal.
    return {
        "softmax_scale": float(scale),
        "window_size": window,
        "learnable_sink": sinks,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "return_lse": True,
    }


def _is_installed() -> bool:
    try:
        return importlib.util.find_spec("flash_attn.cute") is not None
    except ModuleNotFoundError:  # there is no flash_attn at all
        return False
