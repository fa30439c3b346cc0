"""Variations of a case's inputs for relations that need no tolerance."""

from collections.abc import Callable, Mapping

from torch import Tensor

from harness.errors import UsageError
from harness.operations.base import Inputs, Operation

__all__ = ["VARIATIONS", "vary"]


def vary(row: Operation, inputs: Inputs, name: str) -> Inputs:
    """Returns the inputs changed by the named variation.

    Raises:
        UsageError: there is no variation of this name.
    """
    if name not in VARIATIONS:
        raise UsageError(f"variation: got {name!r}, expected one of {', '.join(VARIATIONS)}")
    tensors = VARIATIONS[name](row, inputs.tensors)
    return Inputs(tensors=tensors, options=inputs.options, cotangents=inputs.cotangents)


def _scrambled_end(row: Operation, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the inputs with another last token in everything that has tokens on its second axis."""
    changed = dict(tensors)
    for name, axes in row.axes.items():
        if name in changed and axes[1:2] == ("token",):
            moved = changed[name].clone()
            # A mean with the first token stays in every domain: log decays negative, betas in (0, 1).
            moved[:, -1] = 0.5 * moved[:, -1] + 0.25 * moved[:, 0]
            changed[name] = moved
    return changed


VARIATIONS: Mapping[str, Callable[[Operation, Mapping[str, Tensor]], dict[str, Tensor]]] = {"future": _scrambled_end}
"""``future``: the last token is another one; whatever cannot see it must not change by a bit."""
