"""What is timed of a call: forward, backward alone, or both; nothing is built inside, and what came out is returned."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from harness.operations.base import Operation
from harness.truth import GRAD

__all__ = ["PHASES", "timed_call"]

PHASES = ("forward", "backward", "forward+backward")


def timed_call(
    row: Operation,
    function: Callable[..., Any],
    leaves: Mapping[str, Tensor],
    options: Mapping[str, Any],
    cotangents: Mapping[str, Tensor],
    phase: str,
) -> Callable[[], dict[str, Tensor | None]]:
    """Returns a call that gives outputs, gradients (``grad:NAME``) or both, as its phase makes them.

    Args:
        row: the operation.
        function: of the operation's call.
        leaves: inputs; those that ask for a gradient get one.
        options: keyword arguments that are no tensors.
        cotangents: by name of an output; outputs without one are not pulled.
        phase: one of ``PHASES``.
    """
    args, kwargs = row.arrange(dict(leaves), options)
    names = [name for name, item in leaves.items() if item.requires_grad]
    wanted = [leaves[name] for name in names]
    keys = [GRAD + name for name in names]

    def forward() -> dict[str, Tensor]:
        return row.named(function(*args, **kwargs))

    def pulled(outputs: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor | None]:
        given = [name for name, item in outputs.items() if item.requires_grad and name in cotangents]
        grads = torch.autograd.grad(
            [outputs[name] for name in given], wanted, [cotangents[name] for name in given],
            allow_unused=True, retain_graph=keep,
        )  # fmt: skip
        return dict(zip(keys, grads, strict=True))

    def both() -> dict[str, Tensor | None]:
        outputs = forward()
        return {**outputs, **pulled(outputs, keep=False)}

    if phase == "forward":
        return lambda: {**forward()}
    if phase == "forward+backward":
        return both
    outputs = forward()
    return lambda: pulled(outputs, keep=True)
