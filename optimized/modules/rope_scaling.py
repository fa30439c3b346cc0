"""How rotary frequencies are scaled for contexts longer than a model was trained on.

Names and arguments are those of d9d; the formulas are those of ``optimized.eager.rope_tables``, in which YaRN's ramp
begins and ends at whole channels, as in its published code and in transformers.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from optimized.modules.checks import check_positive, check_sizes

__all__ = ["LinearRopeScaling", "NoRopeScaling", "NtkRopeScaling", "RopeScaling", "YarnRopeScaling"]


class RopeScaling(ABC):
    """A change of the frequencies, and of the magnitude, of rotary tables."""

    @property
    @abstractmethod
    def options(self) -> Mapping[str, Any] | None:
        """The argument ``scaling`` of ``rope_tables``."""


@dataclass(frozen=True, slots=True)
class NoRopeScaling(RopeScaling):
    """The frequencies as they are."""

    @property
    def options(self) -> None:
        """None."""
        return


@dataclass(frozen=True, slots=True)
class LinearRopeScaling(RopeScaling):
    """All frequencies divided by one factor.

    Source: Chen et al., "Extending Context Window of Large Language Models via Positional Interpolation".

    Attributes:
        factor: positive.
    """

    factor: float

    def __post_init__(self) -> None:
        """Refuses a factor that is not positive."""
        check_positive("factor", self.factor)

    @property
    def options(self) -> Mapping[str, Any]:
        """Type and factor."""
        return MappingProxyType({"type": "linear", "factor": self.factor})


@dataclass(frozen=True, slots=True)
class NtkRopeScaling(RopeScaling):
    """The base multiplied by ``factor^(R / (R - 2))``, for R rotated channels.

    Source: bloc97, as described in Peng et al., "YaRN", section 3.1.

    Attributes:
        factor: positive.
    """

    factor: float

    def __post_init__(self) -> None:
        """Refuses a factor that is not positive."""
        check_positive("factor", self.factor)

    @property
    def options(self) -> Mapping[str, Any]:
        """Type and factor."""
        return MappingProxyType({"type": "ntk", "factor": self.factor})


@dataclass(frozen=True, slots=True)
class YarnRopeScaling(RopeScaling):
    """Fast frequencies as they are, slow ones divided by the factor, a ramp between; the tables scaled in magnitude.

    Source: Peng et al., "YaRN", sections 3.2 and 3.4.

    Attributes:
        factor: positive.
        beta_fast: rotations in the original context above which a frequency stays as it is.
        beta_slow: rotations below which it is divided; smaller than ``beta_fast``.
        original_max_position_embeddings: the original context, in tokens.
        attention_factor: factor of the tables; None for ``0.1 ln(factor) + 1``, or 1 if the factor is at most 1.
    """

    factor: float
    beta_fast: float
    beta_slow: float
    original_max_position_embeddings: int
    attention_factor: float | None = None

    def __post_init__(self) -> None:
        """Refuses numbers that are not positive and a ramp that does not rise."""
        check_positive("factor", self.factor)
        check_positive("beta_fast", self.beta_fast)
        check_positive("beta_slow", self.beta_slow)
        check_sizes(original_max_position_embeddings=self.original_max_position_embeddings)
        if self.attention_factor is not None:
            check_positive("attention_factor", self.attention_factor)
        if self.beta_fast <= self.beta_slow:
            raise ValueError(f"beta_fast: got {self.beta_fast}, expected more than beta_slow={self.beta_slow}")

    @property
    def options(self) -> Mapping[str, Any]:
        """Type and all numbers."""
        return MappingProxyType(
            {
                "type": "yarn",
                "factor": self.factor,
                "original_max_position": self.original_max_position_embeddings,
                "beta_fast": self.beta_fast,
                "beta_slow": self.beta_slow,
                "attention_factor": self.attention_factor,
            }
        )
