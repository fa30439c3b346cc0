"""What the attention kernels refuse, dense or packed: arguments that mean nothing, and those that no kernel has."""

import torch

from optimized.kernels.support import refuse_tensors

__all__ = ["MAX_WIDTH", "check_heads", "check_window", "refuse"]

MAX_WIDTH = 256
"""Largest width of a query/key or value head."""


def check_heads(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
    """Refuses heads without channels, no heads, and query heads that do not divide among the key/value heads.

    Raises:
        ValueError: one of these is found; the last two axes of every tensor are head and channel.
    """
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.ndim < 2 or 0 in tensor.shape[-2:]:
            raise ValueError(f"{name}: got shape {tuple(tensor.shape)}, expected at least one head and one channel")
    H, G = query.shape[-2], key.shape[-2]
    if H % G:
        raise ValueError(f"query: got {H} heads, expected a multiple of the {G} key/value heads")


def check_window(window: tuple[int | None, int | None]) -> None:
    """Refuses what is no pair of None or numbers from 0 on.

    Raises:
        ValueError: the window is something else.
    """
    if len(window) != 2 or any(side is not None and side < 0 for side in window):
        raise ValueError(f"window: got {window}, expected (left, right), each None or at least 0")


def refuse(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    sinks: torch.Tensor | None,
    key_mask: torch.Tensor | None,
    bias: torch.Tensor | None,
) -> str | None:
    """Returns None if there are kernels for these tensors, else a sentence that says why not."""
    width = max(query.shape[-1], value.shape[-1])
    if width > MAX_WIDTH:
        return f"head width: got {width}, expected at most {MAX_WIDTH}"
    dtypes = [tensor.dtype for tensor in (query, key, value)]
    if len(set(dtypes)) > 1:
        return f"dtype: got {', '.join(map(str, dtypes))}, expected one for query, key and value"
    if bias is not None and bias.dtype not in (query.dtype, torch.float32):
        return f"bias: got {bias.dtype}, expected {query.dtype} as query or torch.float32"
    if key_mask is not None and key_mask.device != query.device:
        return f"device: got {query.device} and {key_mask.device}, expected the same device for all tensors"
    return refuse_tensors(query, key, value, *(tensor for tensor in (sinks, bias) if tensor is not None))
