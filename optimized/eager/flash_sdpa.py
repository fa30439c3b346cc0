"""The softmax attention layer with sinks in plain torch.

Letters: B batch, T query tokens, S key tokens, H query heads, G key/value heads, D query/key head width, V value head
width.
"""

from collections.abc import Mapping

from torch import Tensor

from optimized.eager.attention import attention
from optimized.eager.checks import check_key_mask, check_parameters

__all__ = ["flash_sdpa"]


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
    """Computes ``attention`` with the layer's sinks and window.

    Args:
        query_states: shape (B, T, H, D).
        key_states: shape (B, S, G, D), H a multiple of G.
        value_states: shape (B, S, G, V).
        attention_mask: None, or a boolean key mask (B, S), True = may be seen.
        parameters: ``sinks`` (H,) if ``num_sinks`` is given, else empty.
        is_causal: whether a query sees only keys up to its own position.
        scale: factor of the logits.
        num_sinks: H, or None for no sinks.
        window_size: W keys before the token are seen besides itself; requires ``is_causal``.

    Returns:
        Shape (B, T, H, V), dtype of ``query_states``.

    Raises:
        TypeError: the mask is not boolean.
        ValueError: a shape disagrees, or the window is negative or not causal.

    Source: the layer ``FlashSdpa`` of d9d.
    """
    check_key_mask("attention_mask", attention_mask, batch=query_states.shape[0], tokens=key_states.shape[1])
    if window_size is not None and window_size < 0:
        raise ValueError(f"window_size: got {window_size}, expected None or a number that is not negative")
    if window_size is not None and not is_causal:
        raise ValueError(f"window_size: got {window_size} with is_causal=False, expected is_causal=True")
    if num_sinks is not None and num_sinks != query_states.shape[2]:
        raise ValueError(f"num_sinks: got {num_sinks}, expected the number of query heads, {query_states.shape[2]}")
    if num_sinks is not None:
        check_parameters(parameters, {"sinks": (num_sinks,)})
    return attention(
        query_states,
        key_states,
        value_states,
        scale=scale,
        window=(window_size, 0) if is_causal else (None, None),
        sinks=None if num_sinks is None else parameters["sinks"],
        key_mask=attention_mask,
    ).out
