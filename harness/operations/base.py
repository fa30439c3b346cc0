"""Inputs, outputs and Operation: the nouns that every operation is described with.

Inputs are made on the CPU from a Case alone and are already quantised to the storage dtype, so that the reference
promotes the very values that a kernel reads.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from harness.emulators.arithmetic import Arithmetic
from harness.errors import UsageError
from harness.operations.case import Case
from optimized.candidate import STORAGE_FORMATS

__all__ = ["Inputs", "Operation", "Output", "output_dtype", "storage_dtype"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Everything that a call takes and what its gradients are pulled with.

    Attributes:
        tensors: by argument or parameter name, on the CPU, contiguous, in storage dtype (masks bool, positions and
            sequence offsets integer); an optional tensor that the case leaves out is missing.
        options: the keyword arguments that are not tensors.
        cotangents: by output name, in the dtype of that output.
    """

    tensors: Mapping[str, Tensor]
    options: Mapping[str, Any]
    cotangents: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One output of an operation.

    Attributes:
        name: its name in the result.
        axes: names of its axes.
        wide: whether it is kept in float32 where the storage is a 16-bit format (LSE, states, log decays, tables).
        optional: whether a candidate may return None for it (LSE, final state); it is then reported as not checked.
    """

    name: str
    axes: tuple[str, ...]
    wide: bool = False
    optional: bool = False


Emulate = Callable[[Arithmetic, Mapping[str, Tensor], Mapping[str, Any]], dict[str, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A row of the table of operations.

    Attributes:
        case: the case type.
        strategy: hypothesis strategy of the fields beyond those of every case, given the largest size.
        inputs: makes the inputs of a case, cotangents included.
        reference: the definition, in float64.
        emulate: the operation as a legal kernel does it.
        outputs: in the order in which the call returns them.
        positional: names of the positional tensors; ``position_embeddings`` stands for ``(cos, sin)``.
        is_layer: whether the remaining tensors are parameters, passed as a mapping after the positional ones.
        constant: floating-point inputs that have no gradient.
        tiles: piece lengths over which the budget's samples are spread (tiles of keys, chunks of tokens).
        samples: random executions of the budget; more where they are spread over several tile lengths.
        directions: inputs or options along which an error is looked for even where every element passes.
        axes: names of the axes of inputs.
        call: the call as one line, for people.
    """

    case: type[Case]
    strategy: Callable[[int], st.SearchStrategy[dict[str, Any]]]
    inputs: Callable[[Any], Inputs]
    reference: Callable[..., Any]
    emulate: Emulate
    outputs: tuple[Output, ...]
    positional: tuple[str, ...]
    is_layer: bool = False
    constant: tuple[str, ...] = ("cos", "sin")
    tiles: tuple[int, ...] = (64,)
    samples: int = 8
    directions: tuple[str, ...] = ()
    axes: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    call: str = ""

    @property
    def name(self) -> str:
        """Name of the operation."""
        return self.case.op

    def differentiable(self, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Returns the names of the inputs that have a gradient."""
        return tuple(
            name for name, tensor in tensors.items() if tensor.is_floating_point() and name not in self.constant
        )

    def arrange(
        self, tensors: Mapping[str, Tensor], options: Mapping[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:  # fmt: skip
        """Returns the positional and the keyword arguments of a call."""
        rest = dict(tensors)
        args: list[Any] = []
        for name in self.positional:
            if name == "position_embeddings":
                args.append((rest.pop("cos"), rest.pop("sin")))
            else:
                args.append(rest.pop(name, None))
        if self.is_layer:
            return [*args, rest], dict(options)
        return args, {**options, **rest}

    def named(self, result: Any) -> dict[str, Tensor]:  # noqa: ANN401 - a tensor or a tuple of tensors
        """Returns what a call returned by output name, outputs that are None left out."""
        values = (result,) if isinstance(result, Tensor) else tuple(result)
        return {output.name: value for output, value in zip(self.outputs, values, strict=True) if value is not None}


def output_dtype(output: Output, storage: str) -> torch.dtype:
    """Returns the dtype that an output must have."""
    return torch.float32 if output.wide and storage in {"bfloat16", "float16"} else storage_dtype(storage)


def storage_dtype(name: str) -> torch.dtype:
    """Returns the torch dtype of a format's name."""
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise UsageError(f"dtype: got {name!r}, expected one of {', '.join(STORAGE_FORMATS)}")
    return dtype
