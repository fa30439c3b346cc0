"""Variations of a case's inputs for relations that need no tolerance."""

from collections.abc import Callable, Mapping

from torch import Tensor

from harness.errors import UsageError
from harness.operations.base import Case, Inputs

__all__ = ["VARIATIONS", "vary"]


def vary(case: Case, inputs: Inputs, name: str) -> Inputs:
    """Returns the inputs changed by the named variation.

    Raises:
        UsageError: there is no variation of this name.
    """
    if name not in VARIATIONS:
        raise UsageError(f"variation: got {name!r}, expected one of {', '.join(VARIATIONS)}")
    tensors = VARIATIONS[name](case, inputs.tensors)
    return Inputs(tensors=tensors, options=inputs.options, cotangents=inputs.cotangents)


def _scrambled_end(case: Case, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:  # noqa: ARG001 - one signature
    """Returns the inputs with other values in the last token of everything that has tokens."""
    changed = {}
    for name, item in tensors.items():
        changed[name] = item
        if item.is_floating_point() and item.dim() >= 3:
            moved = item.clone()
            moved[:, -1] = -2 * moved[:, -1] + 1
            changed[name] = moved
    return changed


VARIATIONS: Mapping[str, Callable[[Case, Mapping[str, Tensor]], dict[str, Tensor]]] = {"future": _scrambled_end}
"""``future``: the last token is another one; whatever cannot see it must not change by a bit."""
