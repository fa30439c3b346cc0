"""What all plug-ins of peers are made with: a candidate per format, refusals in a sentence, projects that are missing.

Nothing here imports a peer. A candidate's function finds its project when it is first called, and its ``supports`` says
by name what is not installed: a missing project is UNSUPPORTED, never an ImportError.
"""

import functools
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch

from optimized.candidate import Candidate, Recipe

__all__ = [
    "ALL",
    "HALF",
    "LAYERED",
    "SUFFIX",
    "TRAINED",
    "Refusal",
    "each",
    "fused",
    "interpreted",
    "layered",
    "missing",
    "only",
    "stored",
    "widened",
]

SUFFIX = {"float64": "fp64", "float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
HALF: tuple[str, ...] = ("bfloat16", "float16")
TRAINED: tuple[str, ...] = ("float32", *HALF)
LAYERED: tuple[str, ...] = ("float32", "bfloat16")
"""Formats that whole layers are judged in: float16 rounds where bfloat16 does."""
ALL: tuple[str, ...] = ("float64", *TRAINED)

Refusal = Callable[..., str | None]


def _wide(storage: str) -> str:
    return "float64" if storage == "float64" else "float32"


def widened(storage: str) -> Recipe:
    """Returns the recipe of code that converts to float32, computes there, and rounds the result once."""
    return Recipe(storage=storage, operand=_wide(storage), accumulator=_wide(storage))


def stored(storage: str) -> Recipe:
    """Returns the recipe of plain torch code: every tensor on the way is stored in the dtype of the inputs."""
    return Recipe(storage=storage, operand=storage, accumulator=_wide(storage), intermediates=storage)


def fused(storage: str) -> Recipe:
    """Returns the recipe of a fused kernel: operands of matrix products in the inputs' dtype, sums in float32."""
    return Recipe(storage=storage, operand=storage, accumulator=_wide(storage))


def layered(storage: str) -> Recipe:
    """Returns the recipe of a layer of such kernels, whose softmax is in float32 and rounds its weights."""
    return Recipe(storage=storage, operand=storage, accumulator=_wide(storage), weights=storage)


def missing(*projects: str) -> str | None:
    """Returns None, or a sentence that names the first of these packages that is not installed."""
    for project in projects:
        if not _is_installed(project):
            return f"{project}: not installed, expected it beside attest (nox -s peers installs every peer)"
    return None


@functools.cache
def _is_installed(project: str) -> bool:
    return importlib.util.find_spec(project) is not None


def only(**allowed: Any) -> Refusal:  # a value, or a tuple of values
    """Returns a refusal of options other than these; None stands for an optional tensor that is left out."""

    def supports(*tensors: object, **options: Any) -> str | None:
        del tensors
        for name, values in allowed.items():
            expected = values if isinstance(values, tuple) else (values,)
            got = options.get(name)
            if isinstance(got, torch.Tensor) or got not in expected:
                shown = "a tensor" if isinstance(got, torch.Tensor) else repr(got)
                return f"{name}: got {shown}, expected {' or '.join(map(repr, expected))}"
        return None

    return supports


def interpreted(*tensors: Any, **_: Any) -> str | None:
    """Refuses bfloat16 on a CPU: Triton's interpreter computes it wrongly, which would be held against the kernel.

    A process that only compiles, which says that it does not interpret, computes nothing.
    """
    if os.environ.get("TRITON_INTERPRET") == "0":
        return None
    floats = [each for each in tensors if isinstance(each, torch.Tensor) and each.is_floating_point()]
    if floats and floats[0].device.type == "cpu" and any(each.dtype is torch.bfloat16 for each in floats):
        return "bfloat16: got a CPU, where Triton's interpreter computes it wrongly; expected a GPU"
    return None


def each(
    name: str,
    op: str,
    call: Callable[..., Any],
    recipe: Callable[[str], Recipe],
    *,
    needs: tuple[str, ...],
    formats: tuple[str, ...] = TRAINED,
    refusals: tuple[Refusal, ...] = (),
    differentiable: bool = True,
    devices: tuple[str, ...] = ("cpu", "cuda"),
) -> tuple[Candidate, ...]:
    """Returns one candidate per format, whose name ends in the format.

    Args:
        name: the project first.
        op: operation.
        call: the peer behind the call of the operation.
        recipe: makes the recipe of a storage format, as the peer's authors would state it.
        needs: packages without which the candidate is UNSUPPORTED.
        formats: storage formats.
        refusals: each returns None or a sentence, called with the arguments of the call.
        differentiable: whether it gives gradients.
        devices: where it runs.
    """

    def supports(*tensors: Any, **options: Any) -> str | None:
        sentence = missing(*needs)
        for refuse in () if sentence else refusals:
            sentence = sentence or refuse(*tensors, **options)
        return sentence

    return tuple(
        Candidate(
            name=f"{name}-{SUFFIX[storage]}", op=op, load=lambda: call, recipe=recipe(storage), supports=supports,
            differentiable=differentiable, devices=devices,
        )
        for storage in formats
    )  # fmt: skip
