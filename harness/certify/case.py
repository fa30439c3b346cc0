"""What is certified: one call of one operation, as data that serves balls and tensors alike.

All numbers are float64, so that each input is exact in both worlds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

__all__ = ["Argument", "Case", "Draw", "Numbers", "call"]

Numbers: TypeAlias = np.ndarray[Any, np.dtype[Any]]

Argument: TypeAlias = str | tuple["Argument", ...] | Mapping[str, "Argument"] | None
"""A positional argument: the name of an array, None, or a tuple or mapping of these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One call of one operation.

    Attributes:
        op: name of the operation.
        regime: what is particular about the case, for messages.
        inputs: float64 arrays by name; the gradient by each is certified and the condition counts all of them.
        constants: arrays that are not differentiated (masks, positions), by name.
        arguments: what is passed by position.
        keywords: arrays that are passed by keyword; keyword and name are the same.
        options: everything else, passed by keyword as it is.
        seed: seed of the cotangents.
    """

    op: str
    regime: str
    arguments: tuple[Argument, ...]
    inputs: Mapping[str, Numbers] = field(default_factory=dict)
    constants: Mapping[str, Numbers] = field(default_factory=dict)
    keywords: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: tuple[int, ...] = (0,)


def call(function: Callable[..., Any], case: Case, arrays: Mapping[str, Any]) -> Any:  # noqa: ANN401 - as the function
    """Returns what the function returns for the arguments of the case, with the given arrays for their names."""
    positional = [_resolved(argument, arrays) for argument in case.arguments]
    return function(*positional, **{name: arrays[name] for name in case.keywords}, **case.options)


def _resolved(argument: Argument, arrays: Mapping[str, Any]) -> object:
    if argument is None:
        return None
    if isinstance(argument, str):
        return arrays[argument]
    if isinstance(argument, tuple):
        return tuple(_resolved(item, arrays) for item in argument)
    return {name: _resolved(item, arrays) for name, item in argument.items()}


class Draw:
    """Random arrays from one seed, a tuple of integers."""

    def __init__(self, *seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> Numbers:
        """Returns normally distributed numbers."""
        return self._generator.standard_normal(shape) * scale

    def uniform(self, low: float, high: float, *shape: int) -> Numbers:
        """Returns uniformly distributed numbers."""
        return self._generator.uniform(low, high, shape)

    def signs(self, *shape: int) -> Numbers:
        """Returns numbers that are 1 or -1."""
        return self._generator.choice([-1.0, 1.0], shape)

    def mask(self, *shape: int) -> Numbers:
        """Returns booleans, three of four True."""
        return self._generator.random(shape) < 0.75
