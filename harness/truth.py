"""What the reference says of a case: outputs and gradients in float64, and their derivatives along directions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.errors import UsageError
from harness.operations.base import Inputs, Operation

__all__ = ["GRAD", "STEP", "Truth", "promote", "truth"]

GRAD = "grad:"
STEP = 1e-6
"""Relative step of the derivative along a direction; its error of about 1e-6 is far below what is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """Expected values by name of output (``"out"``) and of gradient (``"grad:query"``), float64, never rounded.

    Attributes:
        expected: the values.
        tangents: by direction, the derivative of every expected value by the logarithm of that argument.
    """

    expected: Mapping[str, Tensor]
    tangents: Mapping[str, Mapping[str, Tensor]]


def promote(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns stored tensors with the floating-point ones as float64 of the same values."""
    return {name: item.to(torch.float64) if item.is_floating_point() else item for name, item in tensors.items()}


def truth(row: Operation, inputs: Inputs, provided: Sequence[str], *, with_gradients: bool) -> Truth:
    """Returns the expected values of the outputs that a candidate provides, and of all gradients from them.

    Args:
        row: the operation.
        inputs: stored inputs; they are promoted, never rounded.
        provided: names of the outputs; gradients come from the cotangents of these alone.
        with_gradients: whether gradients are wanted.
    """
    tensors = promote(inputs.tensors)
    expected = _evaluate(row, inputs, tensors, dict(inputs.options), provided, with_gradients=with_gradients)
    tangents = {}
    for direction in row.directions:
        moved, options = dict(tensors), dict(inputs.options)
        if direction in options:
            options[direction] = options[direction] * (1 + STEP)
        elif direction in moved:
            moved[direction] = moved[direction] * (1 + STEP)
        else:
            continue
        other = _evaluate(row, inputs, moved, options, provided, with_gradients=with_gradients)
        tangents[direction] = {
            name: torch.nan_to_num((other[name] - value) / STEP, nan=0.0, posinf=0.0, neginf=0.0)
            for name, value in expected.items()
        }
    return Truth(expected=expected, tangents=tangents)


def _evaluate(
    row: Operation,
    inputs: Inputs,
    tensors: Mapping[str, Tensor],
    options: Mapping[str, object],
    provided: Sequence[str],
    *,
    with_gradients: bool,
) -> dict[str, Tensor]:
    names = row.differentiable(tensors) if with_gradients else ()
    leaves = {
        name: item.detach().clone().requires_grad_(name in names) if item.is_floating_point() else item
        for name, item in tensors.items()
    }
    args, kwargs = row.arrange(leaves, options)
    outputs = row.named(row.reference(*args, **kwargs))
    expected = {name: outputs[name].detach() for name in provided}
    if not names:
        return expected
    pulled = [name for name in provided if outputs[name].requires_grad]
    grads = torch.autograd.grad(
        [outputs[name] for name in pulled],
        [leaves[name] for name in names],
        [inputs.cotangents[name].to(torch.float64) for name in pulled],
        allow_unused=True,
    )
    for name, grad in zip(names, grads, strict=True):
        expected[GRAD + name] = torch.zeros_like(leaves[name]) if grad is None else grad
    if any(bool(torch.isnan(value).any()) for name, value in expected.items() if name.startswith(GRAD)):
        raise UsageError(f"{row.name} case: its values leave the range of float64, expected smaller ones")
    return expected
