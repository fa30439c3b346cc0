"""Checks of constructor arguments: every refusal is one sentence ``argument: got X, expected Y``."""

import math

__all__ = ["check_even", "check_positive", "check_sizes"]


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
