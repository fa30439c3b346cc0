"""What an exact property is, and what comparing its two results found."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.operations.base import Inputs
from harness.operations.case import Case
from harness.truth import GRAD

__all__ = ["Exact", "Outcome", "Tensors", "changed", "differs", "unchanged"]

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a comparison found.

    Attributes:
        wrong: elements that differ although they may not.
        has_power: whether the control changed what it had to.
        what: the sentence for elements that differ.
        mixed: the first result with the elements that differ put in. What a candidate whose bits differ from run to
            run is judged by; empty where another run is no excuse, because the elements themselves are known.
    """

    wrong: int
    has_power: bool
    what: str
    mixed: Tensors = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """One property.

    Attributes:
        ops: operations that it applies to; all if empty.
        applies: whether it says anything about a case.
        vary: the other inputs.
        compare: given the case, both inputs, and the first and the second result, gradients included.
        control: inputs that must change the output, where ``compare`` cannot see that by itself.
    """

    ops: frozenset[str]
    applies: Callable[[Case], bool]
    vary: Callable[[Case, Inputs], Inputs]
    compare: Callable[[Case, Inputs, Inputs, Tensors, Tensors], Outcome]
    control: Callable[[Case, Inputs], Inputs] | None = None


def changed(inputs: Inputs, tensors: Tensors, **options: object) -> Inputs:
    """Returns the inputs with some tensors and options replaced."""
    return Inputs(
        tensors={**inputs.tensors, **tensors}, options={**inputs.options, **options}, cotangents=inputs.cotangents
    )


def differs(one: Tensor, other: Tensor) -> Tensor:
    """Returns where two tensors differ; a NaN is like another, and -0 like 0."""
    return ~((one == other) | (torch.isnan(one) & torch.isnan(other)))


def unchanged(one: Tensors, other: Tensors, keep: Tensors, what: str, *, has_power: bool) -> Outcome:
    """Returns the outcome of a comparison of what must have the same bits.

    Args:
        one: the first result.
        other: the second one.
        keep: by output or gradient, which elements must be the same (broadcastable).
        what: the sentence for elements that differ.
        has_power: whether the control changed what it had to.
    """
    wrong, mixed, where = 0, {}, []
    for name, mask in keep.items():
        if name in one and name in other:
            off = differs(one[name], other[name]) & mask
            mixed[name] = torch.where(off, other[name], one[name])
            wrong += int(off.sum())
            where += [name] if bool(off.any()) else []
    named = f" ({', '.join(name.replace(GRAD, 'gradient of ') for name in where)})" if where else ""
    return Outcome(wrong=wrong, has_power=has_power, what=f"{what}{named}", mixed=mixed)
