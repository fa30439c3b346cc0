"""One call of a candidate: inputs laid out in memory as the case says, outputs, gradients, and the bits around them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from harness.layouts import lay_out
from harness.operations.base import Inputs, Operation
from harness.operations.case import Case
from harness.wire import memory_bytes

__all__ = ["Call"]


class Call:
    """A candidate's call on laid-out inputs.

    Args:
        row: the operation.
        case: gives layout and dtype.
        inputs: stored inputs on the CPU.
        device: where the candidate runs.
        with_gradients: whether inputs ask for gradients.
    """

    def __init__(self, row: Operation, case: Case, inputs: Inputs, device: str, *, with_gradients: bool) -> None:
        self.row = row
        self.names = row.differentiable(inputs.tensors) if with_gradients else ()
        self.leaves = {
            name: lay_out(item.to(device), case.layout).requires_grad_(name in self.names)
            for name, item in inputs.tensors.items()
        }
        self.cotangents = {name: _lay_out_cotangent(item.to(device), case) for name, item in inputs.cotangents.items()}
        self.options = dict(inputs.options)

    def arguments(self) -> tuple[list[Any], dict[str, Any]]:
        """Returns positional and keyword arguments."""
        return self.row.arrange(self.leaves, self.options)

    def outputs(self, function: Callable[..., Any]) -> dict[str, Tensor]:
        """Returns the outputs that the candidate provides, by name."""
        args, kwargs = self.arguments()
        return self.row.named(function(*args, **kwargs))

    def gradients(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
        """Returns the gradients of every differentiable input from the outputs' cotangents."""
        pulled = [name for name, item in outputs.items() if item.requires_grad]
        if not self.names or not pulled:
            return dict.fromkeys(self.names)
        grads = torch.autograd.grad(
            [outputs[name] for name in pulled],
            [self.leaves[name] for name in self.names],
            [self.cotangents[name] for name in pulled],
            allow_unused=True,
        )
        return dict(zip(self.names, grads, strict=True))

    def bits(self) -> dict[str, bytes]:
        """Returns the bits of all that a candidate may not change: what surrounds a view in memory belongs to it."""
        return {name: memory_bytes(item) for name, item in (*self.leaves.items(), *self.cotangents.items())}


def _lay_out_cotangent(value: Tensor, case: Case) -> Tensor:
    if case.cotangent == "expanded" and value.dim() > 1 and value.shape[1] and bool((value == value[:, :1]).all()):
        return value[:, :1].clone().expand(*value.shape)
    return lay_out(value, case.layout)
