"""The low-rank projection as a module."""

from torch import Tensor, nn

from optimized.backends import check_backend
from optimized.eager.checks import check_width
from optimized.modules.checks import check_positive, check_projected_dtype, check_sizes
from optimized.modules.rms_norm import RMSNorm

__all__ = ["LowRankProjection"]


class LowRankProjection(nn.Module):
    """Computes ``up_proj(norm(down_proj(x)))`` with an RMSNorm in the middle; no projection has a bias.

    Parameters: ``down_proj.weight`` (bottleneck, in_features), ``norm.weight`` (bottleneck,), ``up_proj.weight``
    (out_features, bottleneck).

    Source: DeepSeek-AI, "DeepSeek-V2", section 2.1.2; ``LowRankProjection`` of d9d.
    """

    def __init__(
        self, in_features: int, bottleneck: int, out_features: int, norm_eps: float, *, backend: str | None = None
    ) -> None:
        """Makes the projection.

        Args:
            in_features: width of the input.
            bottleneck: width of the middle.
            out_features: width of the result.
            norm_eps: eps of the norm, positive.
            backend: of the norm, see ``optimized.backends``.

        Raises:
            TypeError: an argument is no number.
            ValueError: a size or ``norm_eps`` is not positive, or there is no such backend.
        """
        super().__init__()
        check_sizes(in_features=in_features, bottleneck=bottleneck, out_features=out_features)
        check_positive("norm_eps", norm_eps)
        self.backend = check_backend(backend)
        self.down_proj = nn.Linear(in_features, bottleneck, bias=False)
        self.norm = RMSNorm(bottleneck, eps=norm_eps, backend=backend)
        self.up_proj = nn.Linear(bottleneck, out_features, bias=False)

    def reset_parameters(self) -> None:
        """Draws the projections anew and sets the norm's weight to 1."""
        self.down_proj.reset_parameters()
        self.norm.reset_parameters()
        self.up_proj.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Returns the projection of ``x`` (..., in_features), shape (..., out_features).

        Raises:
            TypeError: ``x`` is no tensor, or has another dtype than the parameters.
            ValueError: the last axis is not ``in_features``, or the backend says why it cannot.
        """
        check_width("x", x, self.down_proj.in_features)
        check_projected_dtype("x", x, self.down_proj.weight)
        out: Tensor = self.up_proj(self.norm(self.down_proj(x)))
        return out
