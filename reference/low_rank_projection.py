"""A linear map through a narrow bottleneck with a norm in it.

Source: ``LowRankProjection`` of d9d (``d9d.module.block.attention``); the query compression of DeepSeek-V2 (2024),
section 2.1.2, with the norm of its published code.
"""

from collections.abc import Mapping

from torch import Tensor

from reference.checks import require_floats, require_parameters, require_positive
from reference.rms_norm import rms_norm

__all__ = ["low_rank_projection"]


def low_rank_projection(
    hidden_states: Tensor,
    parameters: Mapping[str, Tensor],
    *,
    in_features: int,
    bottleneck: int,
    out_features: int,
    norm_eps: float,
) -> Tensor:
    """Returns ``up_proj(rms_norm(down_proj(x)))``; no projection has a bias.

    Args:
        hidden_states: ``(..., in_features)``.
        parameters: ``down_proj.weight (bottleneck, in_features)``, ``norm.weight (bottleneck,)``,
            ``up_proj.weight (out_features, bottleneck)``.
        in_features: width of the input.
        bottleneck: width of the bottleneck.
        out_features: width of the output.
        norm_eps: epsilon of the norm.

    Returns:
        ``(..., out_features)`` in the dtype of the hidden states.

    Raises:
        TypeError: a tensor has another dtype than the hidden states.
        ValueError: a shape, a parameter name or norm_eps is wrong.
    """
    require_floats(hidden_states=hidden_states)
    if hidden_states.dim() == 0 or hidden_states.shape[-1] != in_features:
        raise ValueError(f"hidden_states: got shape {tuple(hidden_states.shape)}, expected (..., {in_features})")
    require_positive("norm_eps", norm_eps)
    shapes = {
        "down_proj.weight": (bottleneck, in_features),
        "norm.weight": (bottleneck,),
        "up_proj.weight": (out_features, bottleneck),
    }
    require_parameters(parameters, shapes, like=hidden_states)
    compressed = hidden_states @ parameters["down_proj.weight"].mT
    return rms_norm(compressed, parameters["norm.weight"], eps=norm_eps) @ parameters["up_proj.weight"].mT
