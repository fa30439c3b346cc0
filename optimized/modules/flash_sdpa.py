"""Softmax attention with a window and learnable sinks as a module.

Letters: B batch, T query tokens, S key tokens, H query heads, G key/value heads, D query/key head width, V value head
width.
"""

import torch
from torch import Tensor, nn

from optimized.backends import check_backend, operations, without_autocast
from optimized.eager.checks import check_key_mask, check_multiple, check_shape
from optimized.modules.checks import check_sizes

__all__ = ["FlashSdpa"]


class FlashSdpa(nn.Module):
    """Computes ``softmax(scale * q k^T) v`` over the visible keys, with one learnable sink logit per query head.

    Parameter, if ``num_sinks`` is given: ``sinks`` (H,), initialised to 0. A sink enters the denominator of the softmax
    and has no value; it is not multiplied by the scale.

    Source: Vaswani et al., "Attention Is All You Need", section 3.2.1; sinks as in gpt-oss; ``FlashSdpa`` of d9d.
    """

    def __init__(
        self, num_sinks: int | None = None, window_size: int | None = None, *, backend: str | None = None
    ) -> None:
        """Makes the layer.

        Args:
            num_sinks: H, or None for no sinks.
            window_size: a token sees W tokens before itself, and itself; None shows all. Requires causal calls.
            backend: see ``optimized.backends``.

        Raises:
            TypeError: an argument is no integer.
            ValueError: ``num_sinks`` is not positive, the window is negative, or there is no such backend.
        """
        super().__init__()
        if num_sinks is not None:
            check_sizes(num_sinks=num_sinks)
        if window_size is not None and (isinstance(window_size, bool) or not isinstance(window_size, int)):
            raise TypeError(f"window_size: got {window_size!r}, expected None or an integer")
        if window_size is not None and window_size < 0:
            raise ValueError(f"window_size: got {window_size}, expected None or a number that is not negative")
        self.window_size = window_size
        self.backend = check_backend(backend)
        self.sinks = None if num_sinks is None else nn.Parameter(torch.empty(num_sinks))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets the sinks to 0."""
        if self.sinks is not None:
            nn.init.zeros_(self.sinks)

    def forward(
        self,
        query_states: Tensor,
        key_states: Tensor,
        value_states: Tensor,
        attention_mask: Tensor | None,
        is_causal: bool,  # noqa: FBT001 - the signature of d9d
        scale: float,
    ) -> Tensor:
        """Returns the mean of the values, weighted by the softmax.

        Args:
            query_states: shape (B, T, H, D); query head h reads key/value head ``h // (H / G)``.
            key_states: shape (B, S, G, D), H a multiple of G.
            value_states: shape (B, S, G, V).
            attention_mask: None, or a boolean key mask (B, S), True = may be seen; any other mask is refused.
            is_causal: whether query t, which sits at key position ``t + S - T``, sees only keys up to its own.
            scale: factor of the logits.

        Returns:
            Shape (B, T, H, V), dtype of ``query_states``. A row that sees no key is 0.

        Raises:
            TypeError: an argument is no tensor, or the mask is not boolean.
            ValueError: a shape disagrees, the query heads are no multiple of the key/value heads, a window meets
                ``is_causal=False``, or the backend says why it cannot.
        """
        check_shape("query_states", query_states, ("B", "T", "H", "D"))
        check_shape("key_states", key_states, (query_states.shape[0], "S", "G", query_states.shape[-1]))
        check_multiple("query_states heads", query_states.shape[2], key_states.shape[2])
        check_shape("value_states", value_states, (*key_states.shape[:3], "V"))
        check_key_mask("attention_mask", attention_mask, batch=key_states.shape[0], tokens=key_states.shape[1])
        if self.window_size is not None and not is_causal:
            raise ValueError(f"is_causal: got False, expected True with window_size={self.window_size}")
        if self.sinks is not None:
            check_shape("query_states", query_states, ("B", "T", self.sinks.shape[0], "D"))
        with without_autocast(query_states):
            out: Tensor = (
                operations(self.backend, query_states)
                .attention(
                    query_states,
                    key_states,
                    value_states,
                    scale=scale,
                    window=(self.window_size, 0) if is_causal else (None, None),
                    sinks=self.sinks,
                    key_mask=attention_mask,
                )
                .out
            )
        return out

    def extra_repr(self) -> str:
        """Returns what ``print`` shows."""
        num_sinks = None if self.sinks is None else self.sinks.shape[0]
        return f"num_sinks={num_sinks}, window_size={self.window_size}, backend={self.backend}"
