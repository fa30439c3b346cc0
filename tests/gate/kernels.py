"""A plug-in: one kernel as it was (``CANDIDATES``), and what a change made of it, each under the same name."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from optimized.candidate import Candidate, Recipe
from tests.faults.catalogue import CANDIDATES as SEEDED

__all__ = [
    "AS_FAST",
    "CANDIDATES",
    "CHANGED",
    "GAIN",
    "NO_GRADIENT",
    "REFUSING",
    "SLOWER",
    "TRUNCATED",
    "TRUNCATED_TWIN",
]

HALF = Recipe(storage="bfloat16", operand="float32", accumulator="float32", intermediates="bfloat16")
_SEEDED = {item.name: item for item in SEEDED}


def right(gate: Tensor, x: Tensor) -> Tensor:
    return torch.nn.functional.silu(gate) * x


def gain(gate: Tensor, x: Tensor) -> Tensor:
    """A tenth of a percent too much: less than every element and the tests over one small case may be off."""
    return (torch.nn.functional.silu(gate).float() * x.float() * 1.001).to(x.dtype)


def slower(gate: Tensor, x: Tensor) -> Tensor:
    """Takes a tenth longer than it did."""
    started = time.perf_counter()
    result = right(gate, x)
    ends = started + 1.1 * (time.perf_counter() - started)
    while time.perf_counter() < ends:
        pass
    return result


def wide_only(gate: Tensor, x: Tensor) -> str | None:
    del x
    return None if gate.shape[-1] > 64 else f"channels: got {gate.shape[-1]}, expected more than 64"


def _silu(function: Callable[..., Any], **fields: Any) -> tuple[Candidate]:
    return (Candidate(name="kernel", op="silu_mul", load=lambda: function, recipe=HALF, **fields),)


def _attention(name: str) -> tuple[Candidate]:
    item = _SEEDED[name]
    return (Candidate(name="kernel", op="attention", load=item.load, recipe=item.recipe, supports=item.supports),)


def _beside(function: Callable[..., Any]) -> tuple[Candidate, ...]:
    """Returns the kernel beside what it was before, so that both are timed in pairs."""
    before = Candidate(name="kernel-before", op="silu_mul", load=lambda: right, recipe=HALF, differentiable=False)
    return (*_silu(function, differentiable=False), before)


CANDIDATES = _silu(right)
AS_FAST = _beside(right)
GAIN = _silu(gain)
SLOWER = _beside(slower)
NO_GRADIENT = _silu(right, differentiable=False)
REFUSING = _silu(right, supports=wide_only)
TRUNCATED_TWIN = _attention("x002-attention-weights-truncated-healthy-bf16")
TRUNCATED = _attention("x002-attention-weights-truncated-bf16")

CHANGED: Mapping[str, tuple[Candidate, ...]] = {
    "CANDIDATES": CANDIDATES, "GAIN": GAIN, "SLOWER": SLOWER, "AS_FAST": AS_FAST, "NO_GRADIENT": NO_GRADIENT,
    "REFUSING": REFUSING,
    "TRUNCATED_TWIN": TRUNCATED_TWIN, "TRUNCATED": TRUNCATED,
}  # fmt: skip
"""By the name that the plug-in's file gives them."""
