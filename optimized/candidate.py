"""The contract that a kernel signs to be judged: what it computes and which roundings it may do.

Standard library only, so that a plug-in needs nothing of this project but this module, and importing it imports no
kernel stack. dtype names are strings: ``"float64"``, ``"float32"``, ``"bfloat16"``, ``"float16"``; the operand of a
matrix product may also be ``"tf32"``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["FORMATS", "STORAGE_FORMATS", "Candidate", "Recipe"]

STORAGE_FORMATS: tuple[str, ...] = ("float64", "float32", "bfloat16", "float16")
"""Formats that a tensor can be stored in."""

FORMATS: tuple[str, ...] = (*STORAGE_FORMATS, "tf32")
"""Formats that a value can be rounded to on its way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The roundings that a candidate may do; an error within those of some legal execution passes, beyond it fails.

    Attributes:
        storage: dtype of every floating-point input, output and gradient (LSE, states and log decays are kept in
            float32 where the storage is a 16-bit format).
        operand: format to which operands are rounded before a matrix product.
        accumulator: format of sums, matrix products and everything else that is not named here.
        weights: format of the softmax weights before the product with the values; None means ``operand``.
        exp_error: largest relative error of one exponential; None means two units in the last place of the
            accumulator.
        free_orders: freedoms of order that the candidate takes, any of ``"tile"``, ``"chunk"``, ``"split"``.
        intermediates: format that every intermediate tensor is stored in; None means ``accumulator`` (fused).
            An eager implementation in bfloat16 has ``"bfloat16"`` here.
    """

    storage: str
    operand: str
    accumulator: str
    weights: str | None = None
    exp_error: float | None = None
    free_orders: tuple[str, ...] = ("tile", "chunk", "split")
    intermediates: str | None = None

    def __post_init__(self) -> None:
        """Refuses a format that does not exist.

        Raises:
            ValueError: a field names an unknown format or order, or ``exp_error`` is not positive.
        """
        _require("storage", self.storage, STORAGE_FORMATS)
        _require("operand", self.operand, FORMATS)
        _require("accumulator", self.accumulator, STORAGE_FORMATS)
        for name, value in (("weights", self.weights), ("intermediates", self.intermediates)):
            if value is not None:
                _require(name, value, FORMATS)
        for order in self.free_orders:
            _require("free_orders", order, ("tile", "chunk", "split"))
        if self.exp_error is not None and not self.exp_error > 0:
            raise ValueError(f"Recipe.exp_error: got {self.exp_error!r}, expected a positive number or None")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An implementation of one operation with one recipe.

    Attributes:
        name: unique name, lower case with dashes, for instance ``"triton-bf16"``; shown in every record.
        op: name of the operation that it computes.
        load: returns the callable; imports kernels only then. The callable has exactly the call of the operation:
            tensors positional, everything else keyword-only. An output that it does not provide may be None.
        recipe: the roundings that it may do.
        supports: called with the arguments of the call; returns None or a sentence that says why not.
        differentiable: whether gradients flow through the returned tensors.
        devices: device types that it runs on.
        deterministic: whether it promises the same bits, forward and backward, of the same call on the same device.
            A promise is checked and a broken one fails; without it, calls may differ within the recipe.
    """

    name: str
    op: str
    load: Callable[[], Callable[..., Any]]
    recipe: Recipe
    supports: Callable[..., str | None] | None = None
    differentiable: bool = True
    devices: tuple[str, ...] = ("cpu", "cuda")
    deterministic: bool = False

    def __post_init__(self) -> None:
        """Refuses an incomplete candidate.

        Raises:
            ValueError: a name is empty or a device is unknown.
            TypeError: ``load`` or ``supports`` cannot be called, or ``recipe`` is not a Recipe.
        """
        if not self.name or not self.op:
            raise ValueError(f"Candidate: got name {self.name!r} and op {self.op!r}, expected two non-empty names")
        if not callable(self.load):
            raise TypeError(f"Candidate.load: got {type(self.load).__name__}, expected a callable without arguments")
        if self.supports is not None and not callable(self.supports):
            raise TypeError(f"Candidate.supports: got {type(self.supports).__name__}, expected a callable or None")
        if not isinstance(self.recipe, Recipe):
            raise TypeError(f"Candidate.recipe: got {type(self.recipe).__name__}, expected a Recipe")
        for device in self.devices:
            _require("Candidate.devices", device, ("cpu", "cuda"))


def _require(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{field}: got {value!r}, expected one of {', '.join(allowed)}")
