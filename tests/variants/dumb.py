"""Plug-in of dumb outputs, five for every operation: none of them may pass.

Each has the right shape and dtype and is made of one call of a correct implementation: zeros; the mean of the values
over the tokens; an input in place of the result; noise of the right size; a buffer that nobody wrote to. They give the
operation's first output alone and no gradients, so that nothing else can give them away.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from optimized.candidate import Candidate
from optimized.catalogue import CANDIDATES as SHIPPED
from tests.variants.correct import SUFFIXES, correct

__all__ = ["CANDIDATES", "KINDS"]

Make = Callable[[Tensor, list[Tensor]], Tensor]
"""Makes a dumb output of the right one and the floating-point inputs, the values first."""


def _zeros(out: Tensor, inputs: list[Tensor]) -> Tensor:  # noqa: ARG001 - one signature
    return torch.zeros_like(out)


def _mean(out: Tensor, inputs: list[Tensor]) -> Tensor:
    """Returns the mean over all tokens and heads, of the values where there are any, in every token."""
    rows = _fitted(inputs[0], out).float().flatten(0, -2)
    return rows.mean(0).expand(out.shape).to(out.dtype)


def _input(out: Tensor, inputs: list[Tensor]) -> Tensor:
    """Returns the last input of the same shape (keys for values), else one that is tiled and cut."""
    alike = [item for item in inputs[1:] or inputs if item.shape == out.shape]
    return alike[0].to(out.dtype) if alike else _fitted(inputs[-1], out)


def _noise(out: Tensor, inputs: list[Tensor]) -> Tensor:  # noqa: ARG001 - one signature
    size = out.float().square().mean().sqrt()
    return (torch.randn(out.shape, generator=torch.Generator().manual_seed(0)) * size).to(out.dtype)


def _untouched(out: Tensor, inputs: list[Tensor]) -> Tensor:  # noqa: ARG001 - one signature
    return torch.empty(out.shape, dtype=out.dtype)


KINDS: Mapping[str, Make] = {
    "zeros": _zeros, "mean": _mean, "input": _input, "noise": _noise, "untouched": _untouched,
}  # fmt: skip


def _fitted(value: Tensor, out: Tensor) -> Tensor:
    """Returns the elements of an input, repeated or cut to the shape of the output."""
    flat = value.detach().flatten()
    repeats = -(-out.numel() // flat.numel())
    return flat.repeat(repeats)[: out.numel()].reshape(out.shape).to(out.dtype)


def _leaves(value: object) -> Iterator[tuple[str, Tensor]]:
    """Yields name and value of the tensors of a call; those of a tuple or a list have no name."""
    if isinstance(value, Tensor):
        yield "", value
    elif isinstance(value, Mapping):
        yield from ((str(name), item) for name, each in value.items() for _, item in _leaves(each))
    elif isinstance(value, tuple | list):
        yield from (pair for each in value for pair in _leaves(each))


def _dumb(base: Candidate, make: Make) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> tuple[Tensor | None, ...]:
        result = base.load()(*args, **kwargs)
        results = (result,) if isinstance(result, Tensor) else tuple(result)
        tensors = [item.detach() for _, item in _leaves([*args, kwargs]) if item.numel()]
        numbers = [item for item in tensors if item.is_floating_point()] or [item.double() for item in tensors]
        # The values stand third among the tensors of attention and of the delta rule, and are first here.
        ordered = [numbers[2], *numbers[:2], *numbers[3:]] if base.op in _WITH_VALUES else numbers
        return make(results[0].detach(), ordered), *(None for _ in results[1:])

    return call


_WITH_VALUES = frozenset({"attention", "varlen_attention", "flash_sdpa", "gated_delta_rule"})


def _candidate(op: str, storage: str, kind: str, make: Make) -> Candidate:
    base = correct(op, storage)
    return Candidate(
        name=f"dumb-{kind}-{op.replace('_', '-')}-{SUFFIXES[storage]}",
        op=op,
        load=lambda: _dumb(base, make),
        recipe=base.recipe,
        differentiable=False,
        devices=("cpu",),
    )


CANDIDATES: tuple[Candidate, ...] = tuple(
    _candidate(op, storage, kind, make)
    for op in dict.fromkeys(item.op for item in SHIPPED)
    for storage in SUFFIXES
    for kind, make in KINDS.items()
)
"""One candidate per operation, storage format and kind."""
