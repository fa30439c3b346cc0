"""RMSNorm as a module. Letters: C channels."""

import torch
from torch import Tensor, nn

from optimized.backends import check_backend, operations, without_autocast
from optimized.modules.checks import check_positive, check_sizes

__all__ = ["RMSNorm"]


class RMSNorm(nn.Module):
    """Computes ``x / sqrt(mean(x^2) + eps) * w`` over the last axis, ``w = weight`` or ``1 + weight``.

    Parameter: ``weight`` (C,), initialised so that ``w = 1``.

    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", section 4; ``RMSNorm`` of d9d.
    """

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-6,
        zero_centered: bool = False,  # noqa: FBT001, FBT002 - the signature of d9d
        *,
        backend: str | None = None,
    ) -> None:
        """Makes the norm.

        Args:
            hidden_size: C.
            eps: added inside the root, positive.
            zero_centered: whether the weight is stored as its difference from 1.
            backend: see ``optimized.backends``.

        Raises:
            TypeError: an argument is no number.
            ValueError: a size or ``eps`` is not positive, or there is no such backend.
        """
        super().__init__()
        check_sizes(hidden_size=hidden_size)
        check_positive("eps", eps)
        self.eps = eps
        self.zero_centered = zero_centered
        self.backend = check_backend(backend)
        self.weight = nn.Parameter(torch.empty(hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets the factor of every channel to 1."""
        nn.init.constant_(self.weight, 0.0 if self.zero_centered else 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the normalised ``x``, shape (..., C) and dtype as ``x``.

        Raises:
            ValueError: the last axis is not C, or the backend says why it cannot.
        """
        with without_autocast(x):
            return operations(self.backend, x).rms_norm(x, self.weight, eps=self.eps, zero_centered=self.zero_centered)

    def extra_repr(self) -> str:
        """Returns what ``print`` shows."""
        return f"{self.weight.shape[0]}, eps={self.eps}, zero_centered={self.zero_centered}"
