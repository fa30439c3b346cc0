"""Faults that are no wrong number: a call that breaks its contract, its memory, or the process that it runs in."""

import os
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "crashes",
    "hangs",
    "input_written",
    "out_of_bounds",
    "raises",
    "refuses",
    "wrong_dtype",
    "wrong_shape",
]

Call = Callable[..., Any]


def input_written(base: Call) -> Call:
    """Returns a call that changes the sign of the first number of its first argument."""

    def call(*args: Any, **kwargs: Any) -> Any:
        result = base(*args, **kwargs)
        args[0].data[(0,) * args[0].dim()].neg_()
        return result

    return call


def out_of_bounds(base: Call) -> Call:
    """Returns a call that writes one element past the end of a workspace."""

    def call(*args: Any, **kwargs: Any) -> Any:
        workspace = torch.empty(args[0].shape, dtype=args[0].dtype)
        end = workspace.storage_offset() + workspace.numel()
        torch.as_strided(workspace, (1,), (1,), end).zero_()
        return base(*args, **kwargs)

    return call


def wrong_shape(base: Call) -> Call:
    """Returns a call whose result has an axis too many."""
    return lambda *args, **kwargs: base(*args, **kwargs).unsqueeze(0)


def wrong_dtype(base: Call) -> Call:
    """Returns a call whose result is float64."""
    return lambda *args, **kwargs: base(*args, **kwargs).double()


def raises(base: Call) -> Call:  # noqa: ARG001 - one signature
    """Returns a call that raises."""

    def call(*args: Any, **kwargs: Any) -> Tensor:
        raise RuntimeError(f"seeded: called with {len(args)} tensors and {len(kwargs)} options")

    return call


def crashes(base: Call) -> Call:  # noqa: ARG001 - one signature
    """Returns a call that ends its process."""
    return lambda *args, **kwargs: os._exit(3 + 0 * len(args) * len(kwargs))


def hangs(base: Call) -> Call:
    """Returns a call that does not come back."""

    def call(*args: Any, **kwargs: Any) -> Any:
        while True:
            time.sleep(1)
            base(*args, **kwargs)

    return call


def refuses(*args: Any, **kwargs: Any) -> str:
    """Returns the sentence of a candidate that supports nothing."""
    return f"x: got {len(args)} tensors and {len(kwargs)} options, expected none"
