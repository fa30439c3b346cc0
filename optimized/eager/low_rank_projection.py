"""The low-rank projection layer in plain torch: every operation's result is stored in the dtype of the inputs."""

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional

from optimized.eager.checks import check_parameters, check_width
from optimized.eager.rms_norm import rms_norm

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
    """Computes ``up_proj(rms_norm(down_proj(x)))``.

    Args:
        hidden_states: shape (..., in_features).
        parameters: ``down_proj.weight`` (bottleneck, in_features), ``norm.weight`` (bottleneck,) and
            ``up_proj.weight`` (out_features, bottleneck).
        in_features: width of the input.
        bottleneck: width of the middle.
        out_features: width of the result.
        norm_eps: eps of the norm.

    Returns:
        Shape (..., out_features), dtype of ``hidden_states``.

    Raises:
        ValueError: a shape disagrees.

    Source: DeepSeek-AI, "DeepSeek-V2", section 2.1.2; the layer ``LowRankProjection`` of d9d.
    """
    check_width("hidden_states", hidden_states, in_features)
    check_parameters(
        parameters,
        {
            "down_proj.weight": (bottleneck, in_features),
            "norm.weight": (bottleneck,),
            "up_proj.weight": (out_features, bottleneck),
        },
    )
    compressed = functional.linear(hidden_states, parameters["down_proj.weight"])
    return functional.linear(
        rms_norm(compressed, parameters["norm.weight"], eps=norm_eps), parameters["up_proj.weight"]
    )
