"""Decay gates of Gated DeltaNet as modules, and the parameters that choose them.

Letters: B batch, T tokens, H heads.
"""

import math
from typing import Annotated, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from optimized.backends import check_backend, operations, without_autocast
from optimized.eager.checks import check_shape
from optimized.modules.checks import check_positive, check_projected_dtype, check_sizes

__all__ = [
    "AnyDecayGateParameters",
    "LogSigmoidDecayGate",
    "LogSigmoidDecayGateParameters",
    "MambaDecayGate",
    "MambaDecayGateParameters",
    "make_decay_gate",
]


class MambaDecayGateParameters(BaseModel):
    """Parameters of ``MambaDecayGate``; an unknown field is refused.

    Attributes:
        type: "mamba", by which the union of gates is told apart.
        normalizer: A is drawn from ``(0, normalizer]``.
        dt_min: smallest dt that is drawn.
        dt_max: largest dt that is drawn.
        dt_init_floor: floor of the dt that is drawn.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    type: Literal["mamba"] = "mamba"
    normalizer: float = Field(gt=0)
    dt_min: float = Field(gt=0)
    dt_max: float = Field(gt=0)
    dt_init_floor: float = Field(gt=0)

    @model_validator(mode="after")
    def _dt_rises(self) -> Self:
        if self.dt_min > self.dt_max:
            raise ValueError(f"dt_min: got {self.dt_min}, expected at most dt_max={self.dt_max}")
        return self


class LogSigmoidDecayGateParameters(BaseModel):
    """Parameters of ``LogSigmoidDecayGate``; an unknown field is refused.

    Attributes:
        type: "logsigmoid", by which the union of gates is told apart.
        normalizer: divisor of the log decay.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    type: Literal["logsigmoid"] = "logsigmoid"
    normalizer: float = Field(gt=0)


AnyDecayGateParameters = Annotated[
    MambaDecayGateParameters | LogSigmoidDecayGateParameters, Field(discriminator="type")
]
"""Parameters of either gate, told apart by ``type``."""


class MambaDecayGate(nn.Module):
    """Computes the log decay ``-exp(A_log) * softplus(proj(x) + dt_bias)``.

    Parameters: ``proj.weight`` (H, hidden_size), ``A_log`` and ``dt_bias`` (H,), float32 whatever the default dtype.
    A is drawn uniformly from ``(0, normalizer]``, dt log-uniformly from ``[dt_min, dt_max]`` and raised to
    ``dt_init_floor``; ``softplus(dt_bias) = dt``.

    Source: Gu and Dao, "Mamba", section 3.6, and Mamba-2; ``MambaDecayGate`` of d9d.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        normalizer: float = 16.0,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        *,
        backend: str | None = None,
    ) -> None:
        """Makes the gate.

        Args:
            hidden_size: width of the input.
            num_heads: H.
            normalizer: largest A that is drawn.
            dt_min: smallest dt that is drawn.
            dt_max: largest dt that is drawn.
            dt_init_floor: floor of the dt that is drawn.
            backend: see ``optimized.backends``.

        Raises:
            TypeError: an argument is no number.
            ValueError: a number is not positive, ``dt_min`` exceeds ``dt_max``, or there is no such backend.
        """
        super().__init__()
        check_sizes(hidden_size=hidden_size, num_heads=num_heads)
        check_positive("normalizer", normalizer)
        check_positive("dt_min", dt_min)
        check_positive("dt_max", dt_max)
        check_positive("dt_init_floor", dt_init_floor)
        if dt_min > dt_max:
            raise ValueError(f"dt_min: got {dt_min}, expected at most dt_max={dt_max}")
        self.normalizer = normalizer
        self.dt_min = dt_min
        self.dt_max = dt_max
        self.dt_init_floor = dt_init_floor
        self.backend = check_backend(backend)
        self.proj = nn.Linear(hidden_size, num_heads, bias=False)
        self.A_log = nn.Parameter(torch.empty(num_heads, dtype=torch.float32))
        self.dt_bias = nn.Parameter(torch.empty(num_heads, dtype=torch.float32))
        self._reset_rates()

    def reset_parameters(self) -> None:
        """Draws the projection, A and dt anew."""
        self.proj.reset_parameters()
        self._reset_rates()

    @torch.no_grad()
    def _reset_rates(self) -> None:
        # rand() is below 1, so that A is never 0, whose logarithm no optimizer survives.
        self.A_log.copy_((self.normalizer * (1.0 - torch.rand_like(self.A_log, dtype=torch.float32))).log())
        low, high = math.log(self.dt_min), math.log(self.dt_max)
        dt = (low + (high - low) * torch.rand_like(self.dt_bias, dtype=torch.float32)).exp()
        dt = dt.clamp(min=self.dt_init_floor)
        self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the log decay of ``x`` (B, T, hidden_size), shape (B, T, H), float32, or float64 for float64.

        Raises:
            TypeError: ``x`` is no tensor, or has another dtype than the projection.
            ValueError: a shape disagrees, or the backend says why it cannot.
        """
        projected = _projected(self.proj, x)
        with without_autocast(projected):
            return operations(self.backend, projected).mamba_decay(projected, self.A_log, self.dt_bias)


class LogSigmoidDecayGate(nn.Module):
    """Computes the log decay ``log(sigmoid(proj(x))) / normalizer``.

    Parameter: ``proj.weight`` (H, hidden_size).

    Source: Yang et al., "Gated Linear Attention Transformers", section 4.4; ``LogSigmoidDecayGate`` of d9d.
    """

    def __init__(
        self, hidden_size: int, num_heads: int, normalizer: float = 16.0, *, backend: str | None = None
    ) -> None:
        """Makes the gate.

        Args:
            hidden_size: width of the input.
            num_heads: H.
            normalizer: divisor of the log decay, positive.
            backend: see ``optimized.backends``.

        Raises:
            TypeError: an argument is no number.
            ValueError: a number is not positive, or there is no such backend.
        """
        super().__init__()
        check_sizes(hidden_size=hidden_size, num_heads=num_heads)
        check_positive("normalizer", normalizer)
        self.normalizer = normalizer
        self.backend = check_backend(backend)
        self.proj = nn.Linear(hidden_size, num_heads, bias=False)

    def reset_parameters(self) -> None:
        """Draws the projection anew."""
        self.proj.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Returns the log decay of ``x`` (B, T, hidden_size), shape (B, T, H), float32, or float64 for float64.

        Raises:
            TypeError: ``x`` is no tensor, or has another dtype than the projection.
            ValueError: a shape disagrees, or the backend says why it cannot.
        """
        projected = _projected(self.proj, x)
        with without_autocast(projected):
            return operations(self.backend, projected).log_sigmoid_decay(projected, normalizer=self.normalizer)


def make_decay_gate(
    parameters: AnyDecayGateParameters, *, hidden_size: int, num_heads: int, backend: str | None
) -> MambaDecayGate | LogSigmoidDecayGate:
    """Returns the gate that the parameters describe.

    Raises:
        TypeError: ``parameters`` is neither of the two models.
    """
    match parameters:
        case MambaDecayGateParameters():
            return MambaDecayGate(hidden_size, num_heads, **parameters.model_dump(exclude={"type"}), backend=backend)
        case LogSigmoidDecayGateParameters():
            return LogSigmoidDecayGate(hidden_size, num_heads, parameters.normalizer, backend=backend)
        case _:
            raise TypeError(
                f"decay_gate: got {type(parameters).__name__}, expected MambaDecayGateParameters or "
                "LogSigmoidDecayGateParameters"
            )


def _projected(projection: nn.Linear, x: Tensor) -> Tensor:
    check_shape("x", x, ("B", "T", projection.in_features))
    check_projected_dtype("x", x, projection.weight)
    out: Tensor = projection(x)
    return out
