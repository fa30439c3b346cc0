"""Grouped-query attention as a module.

Letters: B batch, T tokens, H query heads, G key/value heads, D head width, R rotated channels.
"""

import torch
from torch import Tensor, nn

from optimized.backends import check_backend
from optimized.eager.checks import check_key_mask, check_multiple, check_shape
from optimized.modules.checks import (
    check_even,
    check_position_embeddings,
    check_positive,
    check_projected_dtype,
    check_sizes,
)
from optimized.modules.flash_sdpa import FlashSdpa
from optimized.modules.rms_norm import RMSNorm
from optimized.modules.rotary_embedding import RotaryEmbeddingApplicator, RotaryEmbeddingStyle, as_style

__all__ = ["GroupedQueryAttention"]


class GroupedQueryAttention(nn.Module):
    """Computes projections, norms per head, RoPE, softmax attention of scale ``D^-0.5``, output gate and ``o_proj``.

    As many key/value heads as query heads is multi-head attention, one is multi-query attention. No projection has a
    bias. Parameters: ``q_proj.weight`` (H D, hidden_size), ``k_proj.weight`` and ``v_proj.weight`` (G D, hidden_size),
    ``o_proj.weight`` (hidden_size, H D), ``gate_proj.weight`` (H D, hidden_size) if gated, ``q_norm.weight`` and
    ``k_norm.weight`` (D,) if normed.

    Source: Ainslie et al., "GQA", section 2.2; ``GroupedQueryAttention`` of d9d.
    """

    def __init__(
        self,
        hidden_size: int,
        num_attention_heads: int,
        num_key_value_heads: int,
        head_dim: int,
        qk_norm_eps: float | None,
        is_causal: bool,  # noqa: FBT001 - the signature of d9d
        rope_style: RotaryEmbeddingStyle | str,
        rope_dim: int | None = None,
        enable_output_gate: bool = False,  # noqa: FBT001, FBT002 - the signature of d9d
        qk_norm_zero_centered: bool = False,  # noqa: FBT001, FBT002 - the signature of d9d
        *,
        backend: str | None = None,
    ) -> None:
        """Makes the layer.

        Args:
            hidden_size: width of input and output.
            num_attention_heads: H.
            num_key_value_heads: G, a divisor of H.
            head_dim: D.
            qk_norm_eps: eps of the norms of queries and keys; None leaves them out.
            is_causal: whether a token sees only tokens up to itself.
            rope_style: "half" or "interleaved".
            rope_dim: R, the first channels of a head that are rotated, an even number; None rotates all.
            enable_output_gate: whether the heads are multiplied by ``sigmoid(gate_proj(hidden_states))``.
            qk_norm_zero_centered: whether the norms' weights are stored as differences from 1.
            backend: see ``optimized.backends``.

        Raises:
            TypeError: an argument is no number.
            ValueError: a number is out of range, the heads do not divide, or style or backend is unknown.
        """
        super().__init__()
        H, G, D = num_attention_heads, num_key_value_heads, head_dim
        check_sizes(hidden_size=hidden_size, num_attention_heads=H, num_key_value_heads=G, head_dim=D)
        check_multiple("num_attention_heads", H, G)
        if qk_norm_eps is not None:
            check_positive("qk_norm_eps", qk_norm_eps)
        check_even("head_dim" if rope_dim is None else "rope_dim", D if rope_dim is None else rope_dim)
        if rope_dim is not None and rope_dim > D:
            raise ValueError(f"rope_dim: got {rope_dim}, expected at most head_dim={D}")
        self.hidden_size = hidden_size
        self.head_dim = D
        self.rope_dim = D if rope_dim is None else rope_dim
        self.is_causal = is_causal
        self.backend = check_backend(backend)

        self.q_proj = nn.Linear(hidden_size, H * D, bias=False)
        self.k_proj = nn.Linear(hidden_size, G * D, bias=False)
        self.v_proj = nn.Linear(hidden_size, G * D, bias=False)
        self.o_proj = nn.Linear(H * D, hidden_size, bias=False)
        self.gate_proj = nn.Linear(hidden_size, H * D, bias=False) if enable_output_gate else None
        self.q_norm: RMSNorm | None = None
        self.k_norm: RMSNorm | None = None
        if qk_norm_eps is not None:
            self.q_norm = RMSNorm(D, eps=qk_norm_eps, zero_centered=qk_norm_zero_centered, backend=backend)
            self.k_norm = RMSNorm(D, eps=qk_norm_eps, zero_centered=qk_norm_zero_centered, backend=backend)
        self.rope = RotaryEmbeddingApplicator(as_style("rope_style", rope_style), backend=backend)
        self.kernel = FlashSdpa(backend=backend)

    def reset_parameters(self) -> None:
        """Draws the projections anew and sets the factors of the norms to 1."""
        for part in (self.q_proj, self.k_proj, self.v_proj, self.o_proj, self.gate_proj, self.q_norm, self.k_norm):
            if part is not None:
                part.reset_parameters()

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        position_embeddings: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Returns the layer's output, shape (B, T, hidden_size) and, outside of autocast, dtype of ``hidden_states``.

        Args:
            hidden_states: shape (B, T, hidden_size).
            attention_mask: None, or a boolean key mask (B, T), True = may be seen; any other mask is refused.
            position_embeddings: cosines and sines, each (B, T, R).

        Raises:
            TypeError: an argument is no tensor, ``hidden_states`` has another dtype than the parameters, or the mask is
                not boolean.
            ValueError: a shape disagrees, or the backend says why it cannot.
        """
        check_shape("hidden_states", hidden_states, ("B", "T", self.hidden_size))
        check_projected_dtype("hidden_states", hidden_states, self.q_proj.weight)
        B, T, _ = hidden_states.shape
        check_key_mask("attention_mask", attention_mask, batch=B, tokens=T)
        check_position_embeddings("position_embeddings", position_embeddings, batch=B, tokens=T, width=self.rope_dim)
        cos, sin = position_embeddings
        query = torch.unflatten(self.q_proj(hidden_states), -1, (-1, self.head_dim))
        key = torch.unflatten(self.k_proj(hidden_states), -1, (-1, self.head_dim))
        value = torch.unflatten(self.v_proj(hidden_states), -1, (-1, self.head_dim))
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key = self.rope(query, key, cos, sin)
        out: Tensor = self.kernel(query, key, value, attention_mask, self.is_causal, self.head_dim**-0.5).flatten(2)
        if self.gate_proj is not None:
            out = out * torch.sigmoid(self.gate_proj(hidden_states))
        result: Tensor = self.o_proj(out)
        return result
