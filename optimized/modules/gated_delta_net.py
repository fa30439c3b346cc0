"""Gated DeltaNet as a module.

Letters: B batch, T tokens, G query/key heads, H value heads, D query/key head width, V value head width, C channels,
K taps.
"""

import math

import torch
from torch import Tensor, nn

from optimized.backends import check_backend, operations, without_autocast
from optimized.eager.checks import check_multiple, check_shape
from optimized.eager.short_conv import masked
from optimized.modules.checks import check_positive, check_projected_dtype, check_sizes
from optimized.modules.decay_gates import AnyDecayGateParameters, make_decay_gate
from optimized.modules.rms_norm import RMSNorm

__all__ = ["CausalShortDepthwiseConv1d", "GatedDeltaNet"]


class CausalShortDepthwiseConv1d(nn.Module):
    """Computes ``silu(sum_j weight[c, j] * x[b, t - (K - 1) + j, c])``, tokens before the start counting as 0.

    Parameter: ``weight`` (C, K); tap K - 1 is the current token.

    Source: Gu and Dao, "Mamba", section 3.4; ``CausalShortDepthwiseConv1d`` of d9d.
    """

    def __init__(self, hidden_size: int, kernel_size: int, *, backend: str | None = None) -> None:
        """Makes the convolution.

        Args:
            hidden_size: C.
            kernel_size: K.
            backend: see ``optimized.backends``.

        Raises:
            TypeError: an argument is no integer.
            ValueError: an argument is not positive, or there is no such backend.
        """
        super().__init__()
        check_sizes(hidden_size=hidden_size, kernel_size=kernel_size)
        self.backend = check_backend(backend)
        self.weight = nn.Parameter(torch.empty(hidden_size, kernel_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the weight as torch draws that of a convolution: uniformly within ``K^-0.5``."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Returns the convolution of ``x`` (B, T, C), same shape and dtype; ``mask`` (B, T) multiplies ``x`` first.

        Raises:
            ValueError: a shape disagrees, or the backend says why it cannot.
        """
        with without_autocast(x):
            return operations(self.backend, x).short_conv(x, self.weight, mask=mask)


class GatedDeltaNet(nn.Module):
    """Computes projection, short convolution, gated delta rule of scale ``D^-0.5``, norm, gate and ``o_proj``.

    No projection has a bias. Parameters: ``qkv_proj.weight`` (2 G D + H V, hidden_size), rows ``[q | k | v]``;
    ``qkv_conv1d.weight`` (2 G D + H V, K); ``b_proj.weight`` and ``decay_gate.proj.weight`` (H, hidden_size);
    ``decay_gate.A_log`` and ``decay_gate.dt_bias`` (H,), float32 at construction, for the Mamba gate;
    ``g_proj.weight`` (H V, hidden_size); ``out_norm.weight`` (V,); ``o_proj.weight`` (hidden_size, H V).

    Source: Yang et al., "Gated Delta Networks", section 3.4; ``GatedDeltaNet`` of d9d.
    """

    def __init__(
        self,
        hidden_size: int,
        num_query_key_heads: int,
        num_value_heads: int,
        head_qk_dim: int,
        head_v_dim: int,
        norm_eps: float,
        conv_size: int,
        decay_gate: AnyDecayGateParameters,
        use_qk_l2norm: bool = True,  # noqa: FBT001, FBT002 - the signature of d9d
        *,
        backend: str | None = None,
    ) -> None:
        """Makes the layer.

        Args:
            hidden_size: width of input and output.
            num_query_key_heads: G, a divisor of H.
            num_value_heads: H; value head h uses query/key head ``h // (H / G)``.
            head_qk_dim: D.
            head_v_dim: V.
            norm_eps: eps of the norm of the heads.
            conv_size: K.
            decay_gate: which decay gate, and its parameters.
            use_qk_l2norm: whether queries and keys are divided by ``sqrt(sum x^2 + 1e-6)``.
            backend: see ``optimized.backends``.

        Raises:
            TypeError: an argument is no number, or ``decay_gate`` is no model of a gate's parameters.
            ValueError: a number is out of range, H is no multiple of G, or there is no such backend.
        """
        super().__init__()
        G, H, D, V = num_query_key_heads, num_value_heads, head_qk_dim, head_v_dim
        check_sizes(hidden_size=hidden_size, num_query_key_heads=G, num_value_heads=H, head_qk_dim=D, head_v_dim=V)
        check_sizes(conv_size=conv_size)
        check_multiple("num_value_heads", H, G)
        check_positive("norm_eps", norm_eps)
        self.hidden_size = hidden_size
        self.head_qk_dim = D
        self.head_v_dim = V
        self.widths = [G * D, G * D, H * V]
        self.use_qk_l2norm = use_qk_l2norm
        self.backend = check_backend(backend)

        self.qkv_proj = nn.Linear(hidden_size, sum(self.widths), bias=False)
        self.g_proj = nn.Linear(hidden_size, H * V, bias=False)
        self.b_proj = nn.Linear(hidden_size, H, bias=False)
        self.decay_gate = make_decay_gate(decay_gate, hidden_size=hidden_size, num_heads=H, backend=backend)
        self.qkv_conv1d = CausalShortDepthwiseConv1d(sum(self.widths), conv_size, backend=backend)
        self.out_norm = RMSNorm(V, eps=norm_eps, backend=backend)
        self.o_proj = nn.Linear(H * V, hidden_size, bias=False)

    def reset_parameters(self) -> None:
        """Draws projections, gate and convolution anew and sets the norm's weight to 1."""
        for projection in (self.qkv_proj, self.g_proj, self.b_proj, self.o_proj):
            projection.reset_parameters()
        self.decay_gate.reset_parameters()
        self.qkv_conv1d.reset_parameters()
        self.out_norm.reset_parameters()

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Returns the layer's output, shape (B, T, hidden_size) and, outside of autocast, dtype of ``hidden_states``.

        Args:
            hidden_states: shape (B, T, hidden_size).
            attention_mask: None, or (B, T), boolean, integer or floating point: multiplies ``hidden_states`` first. A
                masked token has output 0, but decays the state. What stands where a boolean mask is False has no
                influence, NaN included.

        Raises:
            TypeError: an argument is no tensor, or ``hidden_states`` has another dtype than the parameters.
            ValueError: a shape disagrees, or the backend says why it cannot.
        """
        check_shape("hidden_states", hidden_states, ("B", "T", self.hidden_size))
        check_projected_dtype("hidden_states", hidden_states, self.qkv_proj.weight)
        if attention_mask is not None:
            check_shape("attention_mask", attention_mask, tuple(hidden_states.shape[:2]))
            hidden_states = masked(hidden_states, attention_mask)
        query, key, value = torch.split(self.qkv_conv1d(self.qkv_proj(hidden_states)), self.widths, dim=-1)
        log_decay = self.decay_gate(hidden_states)
        beta = torch.sigmoid(self.b_proj(hidden_states))
        gate = torch.unflatten(self.g_proj(hidden_states), -1, (-1, self.head_v_dim))
        with without_autocast(value):
            backend = operations(self.backend, value)
            out = backend.gated_delta_rule(
                torch.unflatten(query, -1, (-1, self.head_qk_dim)),
                torch.unflatten(key, -1, (-1, self.head_qk_dim)),
                torch.unflatten(value, -1, (-1, self.head_v_dim)),
                log_decay,
                beta,
                scale=self.head_qk_dim**-0.5,
                normalize_qk=self.use_qk_l2norm,
            ).out
            out = backend.gated_rms_norm(out, gate, self.out_norm.weight, eps=self.out_norm.eps)
        result: Tensor = self.o_proj(out.flatten(2))
        return result
