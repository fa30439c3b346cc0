"""torch's ``scaled_dot_product_attention`` as ``attention``, one function per backend, so that none is chosen silently.

Letters: B batch, T query tokens, S key tokens, H query heads, G key/value heads, D query/key head width, V value head
width.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from optimized.eager.attention import visible_keys
from optimized.eager.checks import Window, check_attention

__all__ = ["SdpaOutput", "flash_attention", "math_attention", "supports_flash", "supports_math"]


class SdpaOutput(NamedTuple):
    """Result (B, T, H, V); torch does not return the log of the denominator."""

    out: Tensor
    lse: None = None


def supports_math(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    window: Window = (None, None),
    sinks: Tensor | None = None,
    key_mask: Tensor | None = None,
    bias: Tensor | None = None,
) -> str | None:
    """Returns None, or a sentence that says why ``math_attention`` refuses these arguments of ``attention``."""
    del query, key, value, scale, window, key_mask, bias
    return None if sinks is None else "sinks: got a tensor, expected None, scaled_dot_product_attention has none"


def supports_flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    window: Window = (None, None),
    sinks: Tensor | None = None,
    key_mask: Tensor | None = None,
    bias: Tensor | None = None,
) -> str | None:
    """Returns None, or a sentence that says why ``flash_attention`` refuses these arguments of ``attention``."""
    if query.device.type != "cpu":
        return f"device: got {query.device.type}, expected cpu, whose flash kernel takes masks"
    if value.shape[-1] != query.shape[-1]:
        return f"value width: got {value.shape[-1]}, expected {query.shape[-1]}, the width of queries and keys"
    if bias is not None and bias.requires_grad:
        return "bias: got one that requires a gradient, expected a constant one"
    return supports_math(query, key, value, scale=scale, window=window, sinks=sinks, key_mask=key_mask, bias=bias)


def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    window: Window = (None, None),
    sinks: Tensor | None = None,
    key_mask: Tensor | None = None,
    bias: Tensor | None = None,
) -> SdpaOutput:
    """Computes ``attention`` by torch's flash kernel for the CPU.

    For 16-bit inputs the kernel rounds the softmax weights to the inputs' dtype before the product with the values.
    Its backward pass adds the gradients of keys and values up in the inputs' dtype, block of queries after block.

    Args:
        query: shape (B, T, H, D).
        key: shape (B, S, G, D).
        value: shape (B, S, G, D).
        scale: factor of the logits.
        window: as in ``attention``; becomes torch's causal flag where that means the same, else part of the mask.
        sinks: must be None.
        key_mask: shape (B, S), boolean.
        bias: broadcastable to (B, H, T, S), without gradient.

    Returns:
        ``out`` (B, T, H, D), and None in place of the log of the denominator.

    Raises:
        TypeError: the key mask is not boolean.
        ValueError: a shape disagrees, or ``supports_flash`` says no.

    Source: torch.nn.functional.scaled_dot_product_attention.
    """
    refusal = supports_flash(query, key, value, scale=scale, window=window, sinks=sinks, key_mask=key_mask, bias=bias)
    if refusal is not None:
        raise ValueError(refusal)
    check_attention(query, key, value, window=window, sinks=sinks, key_mask=key_mask, bias=bias)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return _attend(query, key, value, scale=scale, window=window, key_mask=key_mask, bias=bias)


def math_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    window: Window = (None, None),
    sinks: Tensor | None = None,
    key_mask: Tensor | None = None,
    bias: Tensor | None = None,
) -> SdpaOutput:
    """Computes ``attention`` by torch's decomposition into matrix products, which widens 16-bit inputs to float32.

    Arguments, results and errors are those of ``flash_attention``; here V may differ from D and the bias may require a
    gradient.

    Source: torch.nn.functional.scaled_dot_product_attention.
    """
    refusal = supports_math(query, key, value, scale=scale, window=window, sinks=sinks, key_mask=key_mask, bias=bias)
    if refusal is not None:
        raise ValueError(refusal)
    check_attention(query, key, value, window=window, sinks=sinks, key_mask=key_mask, bias=bias)
    with sdpa_kernel(SDPBackend.MATH):
        return _attend(query, key, value, scale=scale, window=window, key_mask=key_mask, bias=bias)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    window: Window,
    key_mask: Tensor | None,
    bias: Tensor | None,
) -> SdpaOutput:
    """Calls torch with the mask that the arguments mean, in the layout that it wants."""
    # torch aligns its causal triangle at the first key, which is ours only where T = S.
    is_causal = tuple(window) == (None, 0) and query.shape[1] == key.shape[1] and key_mask is None and bias is None
    mask = None if is_causal else visible_keys(query, key, window=window, key_mask=key_mask)
    if bias is not None:
        bias = bias.to(query.dtype).reshape((1,) * (4 - bias.ndim) + tuple(bias.shape))
        mask = bias if mask is None else torch.where(mask, bias, -math.inf)
    out = functional.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=mask,
        is_causal=is_causal,
        scale=scale,
        enable_gqa=query.shape[2] != key.shape[2],
    )
    return SdpaOutput(out=out.transpose(1, 2))
