"""Multi-head latent attention as a module, in its expanded form.

Letters: B batch, T tokens, H heads, N content channels of a query or key, R rotated channels, V value head width.
"""

import torch
from torch import Tensor, nn

from optimized.backends import check_backend
from optimized.eager.checks import check_key_mask, check_shape
from optimized.modules.checks import (
    check_even,
    check_position_embeddings,
    check_positive,
    check_projected_dtype,
    check_sizes,
)
from optimized.modules.flash_sdpa import FlashSdpa
from optimized.modules.low_rank_projection import LowRankProjection
from optimized.modules.rms_norm import RMSNorm
from optimized.modules.rotary_embedding import RotaryEmbeddingApplicator, RotaryEmbeddingStyle, as_style

__all__ = ["MultiHeadLatentAttention"]


class MultiHeadLatentAttention(nn.Module):
    """Computes attention whose keys and values come from one latent vector per token and one rotated key of all heads.

    Queries and keys are ``[content | rotated]`` per head and the scale is ``(N + R)^-0.5``. V may be smaller or larger
    than N + R where the backend can do that. No projection has a bias. Parameters: ``q_proj.weight`` (H (N + R),
    hidden_size), or with ``q_lora_rank`` those of ``LowRankProjection`` under ``q_proj.``; ``kv_down_proj.weight``
    (kv_lora_rank + R, hidden_size), latent first; ``kv_down_norm.weight`` (kv_lora_rank,); ``kv_up_proj.weight``
    (H (N + V), kv_lora_rank), per head content then value; ``o_proj.weight`` (hidden_size, H V).

    Source: DeepSeek-AI, "DeepSeek-V2", section 2.1; ``MultiHeadLatentAttention`` of d9d.
    """

    def __init__(
        self,
        hidden_size: int,
        num_attention_heads: int,
        qk_nope_head_dim: int,
        qk_rope_head_dim: int,
        v_head_dim: int,
        kv_lora_rank: int,
        q_lora_rank: int | None,
        qk_down_norm_eps: float,
        is_causal: bool,  # noqa: FBT001 - the signature of d9d
        rope_style: RotaryEmbeddingStyle | str,
        *,
        backend: str | None = None,
    ) -> None:
        """Makes the layer.

        Args:
            hidden_size: width of input and output.
            num_attention_heads: H.
            qk_nope_head_dim: N.
            qk_rope_head_dim: R, even.
            v_head_dim: V.
            kv_lora_rank: width of the latent vector.
            q_lora_rank: bottleneck of the query projection, or None for a full one.
            qk_down_norm_eps: eps of the norms of the latent vector and of the query's bottleneck.
            is_causal: whether a token sees only tokens up to itself.
            rope_style: "half" or "interleaved".
            backend: see ``optimized.backends``.

        Raises:
            TypeError: an argument is no number.
            ValueError: a number is out of range, or style or backend is unknown.
        """
        super().__init__()
        H, N, R, V = num_attention_heads, qk_nope_head_dim, qk_rope_head_dim, v_head_dim
        check_sizes(hidden_size=hidden_size, num_attention_heads=H, qk_nope_head_dim=N, v_head_dim=V)
        check_even("qk_rope_head_dim", R)
        check_sizes(kv_lora_rank=kv_lora_rank, **({} if q_lora_rank is None else {"q_lora_rank": q_lora_rank}))
        check_positive("qk_down_norm_eps", qk_down_norm_eps)
        self.hidden_size = hidden_size
        self.qk_nope_head_dim = N
        self.qk_rope_head_dim = R
        self.v_head_dim = V
        self.kv_lora_rank = kv_lora_rank
        self.q_lora_rank = q_lora_rank
        self.is_causal = is_causal
        self.backend = check_backend(backend)

        self.q_proj: LowRankProjection | nn.Linear = (
            nn.Linear(hidden_size, H * (N + R), bias=False)
            if q_lora_rank is None
            else LowRankProjection(hidden_size, q_lora_rank, H * (N + R), qk_down_norm_eps, backend=backend)
        )
        self.kv_down_proj = nn.Linear(hidden_size, kv_lora_rank + R, bias=False)
        self.kv_down_norm = RMSNorm(kv_lora_rank, eps=qk_down_norm_eps, backend=backend)
        self.kv_up_proj = nn.Linear(kv_lora_rank, H * (N + V), bias=False)
        self.o_proj = nn.Linear(H * V, hidden_size, bias=False)
        self.rope = RotaryEmbeddingApplicator(as_style("rope_style", rope_style), backend=backend)
        self.kernel = FlashSdpa(backend=backend)

    def reset_parameters(self) -> None:
        """Draws the projections anew and sets the weights of the norms to 1."""
        for part in (self.q_proj, self.kv_down_proj, self.kv_down_norm, self.kv_up_proj, self.o_proj):
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
        check_projected_dtype("hidden_states", hidden_states, self.kv_down_proj.weight)
        B, T, _ = hidden_states.shape
        check_key_mask("attention_mask", attention_mask, batch=B, tokens=T)
        check_position_embeddings(
            "position_embeddings", position_embeddings, batch=B, tokens=T, width=self.qk_rope_head_dim
        )
        cos, sin = position_embeddings
        N, R, V = self.qk_nope_head_dim, self.qk_rope_head_dim, self.v_head_dim
        query = torch.unflatten(self.q_proj(hidden_states), -1, (-1, N + R))
        latent, shared_key = torch.split(self.kv_down_proj(hidden_states), [self.kv_lora_rank, R], dim=-1)
        expanded = torch.unflatten(self.kv_up_proj(self.kv_down_norm(latent)), -1, (-1, N + V))
        key_content, value = torch.split(expanded, [N, V], dim=-1)
        rotated_query, rotated_key = self.rope(query[..., N:], shared_key.unsqueeze(2), cos, sin)
        scale = (N + R) ** -0.5
        query = torch.cat((query[..., :N], rotated_query), dim=-1)
        key = torch.cat((key_content, rotated_key.expand(-1, -1, query.shape[2], -1)), dim=-1)
        out: Tensor = self.kernel(query, key, value, attention_mask, self.is_causal, scale)
        result: Tensor = self.o_proj(out.flatten(2))
        return result
