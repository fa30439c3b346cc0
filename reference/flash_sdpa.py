"""Scaled dot-product attention as a layer: a window and learnable sinks.

Legend: B batch, T query tokens, S key tokens, H query heads, G key/value heads, D query/key width, V value width.

Source: ``FlashSdpa`` of d9d (``d9d.module.block.attention``).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from reference.attention import attention
from reference.checks import require_floats, require_parameters, require_shape

__all__ = ["flash_sdpa", "require_key_mask"]


def flash_sdpa(
    query_states: Tensor,
    key_states: Tensor,
    value_states: Tensor,
    attention_mask: Tensor | None,
    parameters: Mapping[str, Tensor],
    *,
    is_causal: bool,
    scale: float,
    num_sinks: int | None = None,
    window_size: int | None = None,
) -> Tensor:
    """Returns the ``out`` of ``attention``.

    Conventions:
        ``window_size = W`` shows W tokens before the token and the token itself: ``window = (W, 0)``. Causal without a
        window is ``(None, 0)``. A mask is honoured or refused, never ignored.

    Args:
        query_states: ``(B, T, H, D)``.
        key_states: ``(B, S, G, D)``.
        value_states: ``(B, S, G, V)``.
        attention_mask: None or a boolean key mask ``(B, S)``, True may be seen.
        parameters: ``sinks (num_sinks,)`` if num_sinks is given, else empty.
        is_causal: whether later keys are hidden, aligned bottom-right.
        scale: factor of the dot products.
        num_sinks: None or the number of query heads.
        window_size: None or a number that is not negative; requires is_causal.

    Returns:
        ``(B, T, H, V)`` in the dtype of the query states.

    Raises:
        TypeError: a tensor has another dtype than the query states, or the mask is not boolean.
        ValueError: a shape or parameter name is wrong, the window is negative or not causal.
    """
    require_floats(query_states=query_states, key_states=key_states, value_states=value_states)
    require_shape("query_states", query_states, B=None, T=None, H=None, D=None)
    B, _, H, D = query_states.shape
    require_shape("key_states", key_states, B=B, S=None, G=None, D=D)
    require_key_mask(attention_mask, B=B, S=key_states.shape[1], device=query_states.device)
    if num_sinks is not None and num_sinks != H:
        raise ValueError(f"num_sinks: got {num_sinks}, expected {H}, one per query head")
    if window_size is not None and window_size < 0:
        raise ValueError(f"window_size: got {window_size}, expected None or a number that is not negative")
    if window_size is not None and not is_causal:
        raise ValueError(f"is_causal: got False, expected True with window_size={window_size}")
    require_parameters(parameters, {} if num_sinks is None else {"sinks": (num_sinks,)}, like=query_states)
    return attention(
        query_states,
        key_states,
        value_states,
        scale=scale,
        window=(window_size, 0) if is_causal else (None, None),
        sinks=parameters.get("sinks"),
        key_mask=attention_mask,
    ).out


def require_key_mask(attention_mask: Tensor | None, *, B: int, S: int, device: torch.device) -> None:
    """Requires None or a boolean key mask ``(B, S)``.

    Raises:
        TypeError: the mask is no boolean tensor.
        ValueError: its shape is another, or it is on another device.
    """
    if attention_mask is None:
        return
    if not isinstance(attention_mask, Tensor) or attention_mask.dtype != torch.bool:
        got = attention_mask.dtype if isinstance(attention_mask, Tensor) else type(attention_mask).__name__
        raise TypeError(f"attention_mask: got {got}, expected None or a boolean key mask (B={B}, S={S})")
    if attention_mask.device != device:
        raise ValueError(f"attention_mask: got device {attention_mask.device}, expected {device}")
    require_shape("attention_mask", attention_mask, B=B, S=S)
