"""A layer of grouped queries around ``FlashSdpa``, for models with a sliding window or sinks.

Legend: B batch, T tokens.
"""

from torch import Tensor, nn

import reference
from optimized.modules import FlashSdpa, RMSNorm, RotaryEmbeddingApplicator
from tests.exchange.agreement import State
from tests.exchange.modules import BACKEND

__all__ = ["SlidingAttention", "sliding_attention"]


def sliding_attention(
    hidden_states: Tensor,
    attention_mask: Tensor | None,
    position_embeddings: tuple[Tensor, Tensor],
    parameters: State,
    *,
    hidden_size: int,
    num_attention_heads: int,
    num_key_value_heads: int,
    head_dim: int,
    window_size: int | None,
    qk_norm_eps: float | None = None,
    num_sinks: int | None = None,
) -> Tensor:
    """Returns projections, norms, rotary embedding, ``flash_sdpa`` and the output projection, in this order.

    The parameters are those of ``grouped_query_attention`` and, under ``sdpa.``, those of ``flash_sdpa``.
    """
    B, T, C = hidden_states.shape
    assert hidden_size == C
    heads = {"q": num_attention_heads, "k": num_key_value_heads, "v": num_key_value_heads}
    q, k, v = (
        (hidden_states @ parameters[f"{name}_proj.weight"].mT).view(B, T, count, head_dim)
        for name, count in heads.items()
    )
    if qk_norm_eps is not None:
        q = reference.rms_norm(q, parameters["q_norm.weight"], eps=qk_norm_eps)
        k = reference.rms_norm(k, parameters["k_norm.weight"], eps=qk_norm_eps)
    cos, sin = position_embeddings
    out = reference.flash_sdpa(
        reference.rope(q, cos, sin, style="half"),
        reference.rope(k, cos, sin, style="half"),
        v,
        attention_mask,
        {name.removeprefix("sdpa."): value for name, value in parameters.items() if name.startswith("sdpa.")},
        is_causal=True,
        scale=head_dim**-0.5,
        num_sinks=num_sinks,
        window_size=window_size,
    )
    return out.flatten(2) @ parameters["o_proj.weight"].mT


class SlidingAttention(nn.Module):
    """The same of our modules, with the eager backend."""

    def __init__(
        self,
        *,
        hidden_size: int,
        num_attention_heads: int,
        num_key_value_heads: int,
        head_dim: int,
        window_size: int | None,
        qk_norm_eps: float | None = None,
        num_sinks: int | None = None,
    ) -> None:
        super().__init__()
        self.head_dim = head_dim
        q_width, kv_width = num_attention_heads * head_dim, num_key_value_heads * head_dim
        self.q_proj = nn.Linear(hidden_size, q_width, bias=False)
        self.k_proj = nn.Linear(hidden_size, kv_width, bias=False)
        self.v_proj = nn.Linear(hidden_size, kv_width, bias=False)
        self.o_proj = nn.Linear(q_width, hidden_size, bias=False)
        self.q_norm = None if qk_norm_eps is None else RMSNorm(head_dim, qk_norm_eps, backend=BACKEND)
        self.k_norm = None if qk_norm_eps is None else RMSNorm(head_dim, qk_norm_eps, backend=BACKEND)
        self.rope = RotaryEmbeddingApplicator("half", backend=BACKEND)
        self.sdpa = FlashSdpa(num_sinks, window_size, backend=BACKEND)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None, position_embeddings: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Returns the layer's output ``(B, T, hidden_size)``."""
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (projection(hidden_states).unflatten(-1, (-1, self.head_dim)) for projection in projections)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = self.rope(q, k, *position_embeddings)
        heads = self.sdpa(q, k, v, attention_mask, is_causal=True, scale=self.head_dim**-0.5)
        out: Tensor = self.o_proj(heads.flatten(2))
        return out
