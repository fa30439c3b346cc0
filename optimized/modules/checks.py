"""Checks of the arguments of modules: every refusal is one sentence ``argument: got X, expected Y``.

Letters: B batch, T tokens, R rotated channels.
"""

import math

import torch
from torch import Tensor

from optimized.backends import is_autocast
from optimized.eager.checks import check_shape

__all__ = [
    "check_even",
    "check_position_embeddings",
    "check_positive",
    "check_projected_dtype",
    "check_sizes",
]


def check_sizes(**sizes: int) -> None:
    """Refuses a size, a width or a number of heads that is not a positive integer.

    Raises:
        TypeError: an argument is no integer.
        ValueError: an argument is below 1.
    """
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"{name}: got {size!r}, expected a positive integer")
        if size < 1:
            raise ValueError(f"{name}: got {size}, expected a positive integer")


def check_even(argument: str, width: int) -> None:
    """Refuses a number of rotated channels that does not split into pairs.

    Raises:
        TypeError: ``width`` is no integer.
        ValueError: ``width`` is odd or below 2.
    """
    check_sizes(**{argument: width})
    if width % 2:
        raise ValueError(f"{argument}: got {width}, expected a positive even number")


def check_positive(argument: str, number: float) -> None:
    """Refuses what is not a positive finite number.

    Raises:
        TypeError: the argument is no real number.
        ValueError: the number is 0, negative, infinite or NaN.
    """
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise TypeError(f"{argument}: got {number!r}, expected a positive number")
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{argument}: got {number}, expected a positive number")


def check_projected_dtype(argument: str, x: Tensor, weight: Tensor) -> None:
    """Refuses the input of a projection whose dtype does not go with that of the weight.

    Under autocast any two formats do that autocast narrows: it leaves float64 and integers as they are.

    Raises:
        TypeError: the dtypes do not go together.
    """
    if x.dtype == weight.dtype:
        return
    narrowed = x.is_floating_point() and torch.float64 not in (x.dtype, weight.dtype)
    if not (narrowed and is_autocast(x.device)):
        raise TypeError(f"{argument}: got dtype {x.dtype}, expected {weight.dtype}, that of the parameters")


def check_position_embeddings(
    argument: str, tables: tuple[Tensor, Tensor], *, batch: int, tokens: int, width: int
) -> None:
    """Refuses what is no pair of cosines and sines, each a floating-point (B, T, R).

    Raises:
        TypeError: it is no tuple or list, or a part is no floating-point tensor.
        ValueError: there are not two parts, or a shape differs.
    """
    if not isinstance(tables, tuple | list):
        raise TypeError(f"{argument}: got {type(tables).__name__}, expected a pair (cos, sin)")
    if len(tables) != 2:
        raise ValueError(f"{argument}: got {len(tables)} parts, expected a pair (cos, sin)")
    for index, table in enumerate(tables):
        check_shape(f"{argument}[{index}]", table, (batch, tokens, width))
        if not table.is_floating_point():
            raise TypeError(f"{argument}[{index}]: got dtype {table.dtype}, expected a floating-point one")
