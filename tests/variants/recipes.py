"""What a legal execution promises, by storage format, and the table row that it is."""

from collections.abc import Callable
from typing import Any

from optimized.candidate import Recipe

__all__ = ["FORMATS", "Row", "base_two", "kept_weights", "layered", "tensor_core", "widened"]

FORMATS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

Row = tuple[str, str, Callable[..., Any], Callable[[str], Recipe]]
"""Name, operation, the callable, and its recipe by storage format."""

_BASE_TWO_EXP_ERROR = 2.0**-16
"""A power of two takes ``x log2(e)``, whose rounding is half a unit of up to 128: ``2^6 2^-24 ln 2``, and then some."""


def widened(storage: str) -> Recipe:
    """Returns the recipe of an execution in float32 that rounds its results alone."""
    return Recipe(storage=storage, operand="float32", accumulator="float32")


def base_two(storage: str) -> Recipe:
    """Returns the same with an exponential of less accuracy."""
    return Recipe(storage=storage, operand="float32", accumulator="float32", exp_error=_BASE_TWO_EXP_ERROR)


def tensor_core(storage: str) -> Recipe:
    """Returns the recipe of products of stored operands, summed in float32."""
    return Recipe(storage=storage, operand=storage, accumulator="float32")


def kept_weights(storage: str) -> Recipe:
    """Returns the same with softmax weights in float32; where the storage is float32 they are so anyway."""
    if storage == "float32":
        return tensor_core(storage)
    return Recipe(storage=storage, operand=storage, accumulator="float32", weights="float32")


def layered(storage: str) -> Recipe:
    """Returns the recipe of a layer whose projections multiply stored operands and whose other stages are wide.

    The recipe has one format for all operands, and so grants a little more than that.
    """
    return kept_weights(storage)
