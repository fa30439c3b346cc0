"""A plug-in of ``rms_norm`` candidates: one does what it says, each of the others misbehaves in one way."""

import os
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, empty_like

from optimized.candidate import Candidate, Recipe

__all__ = ["CANDIDATES", "SINGLE"]

SINGLE = Recipe(storage="float32", operand="float32", accumulator="float32")


def right(x: Tensor, weight: Tensor, *, eps: float, zero_centered: bool = False) -> Tensor:
    gain = weight + 1 if zero_centered else weight
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), eps=eps) * gain


def one_percent_more(x: Tensor, weight: Tensor, **options: Any) -> Tensor:
    return right(x, weight, **options) * 1.01


def ends(*_: Tensor, **__: Any) -> Tensor:
    os._exit(7)


def hangs(*_: Tensor, **__: Any) -> Tensor:
    time.sleep(60)
    raise AssertionError


def raises(*_: Tensor, **__: Any) -> Tensor:
    raise ValueError("x: got a bad day, expected a good one\nand a second line")


def changes_its_input(x: Tensor, weight: Tensor, **options: Any) -> Tensor:
    result = right(x, weight, **options)
    x.data[0, 0, 0] += 1
    return result


def writes_beside_its_input(x: Tensor, weight: Tensor, **options: Any) -> Tensor:
    """Writes into the memory in front of its input: in the fused layout the other half of a projection's row."""
    if x.storage_offset():
        x.detach().as_strided((1,), (1,), x.storage_offset() - 1).fill_(0.0)
    return right(x, weight, **options)


def binds_its_allocator(x: Tensor, *_: Tensor, **__: Any) -> Tensor:
    """Writes nothing into memory that it asks for by a name of its own module."""
    return empty_like(x, memory_format=torch.contiguous_format)


def writes_past_its_end(x: Tensor, weight: Tensor, **options: Any) -> Tensor:
    buffer = torch.empty(x.shape)
    buffer.as_strided((1,), (1,), buffer.storage_offset() + buffer.numel()).fill_(0.0)
    return buffer.copy_(right(x, weight, **options))


def writes_nothing(x: Tensor, *_: Tensor, **__: Any) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype)


def gives_no_tensor(*_: Tensor, **__: Any) -> Any:
    return 3.0


def gives_two(x: Tensor, weight: Tensor, **options: Any) -> Any:
    result = right(x, weight, **options)
    return result, result


def gives_none(*_: Tensor, **__: Any) -> None:
    return None


def narrow(x: Tensor, weight: Tensor, **options: Any) -> Tensor:
    return right(x, weight, **options).half()


def flat(x: Tensor, weight: Tensor, **options: Any) -> Tensor:
    return right(x, weight, **options).flatten(0, 1)


def without_weight(x: Tensor, weight: Tensor, **options: Any) -> Tensor:
    return right(x, weight.detach(), **options)


def leaves_a_mess(x: Tensor, weight: Tensor, **options: Any) -> Tensor:
    result = right(x, weight, **options)
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True)  # noqa: FBT003 - torch's own signature
    torch.autograd.grad_mode.set_grad_enabled(False)
    return result


def stops_python(*_: Tensor, **__: Any) -> Tensor:
    raise SystemExit(5)


def takes_all_memory(*_: Tensor, **__: Any) -> Tensor:
    taken = []
    while True:
        taken.append(torch.empty(1 << 28, dtype=torch.uint8))
        if len(taken) > 4096:
            return taken[0]


CALLS = [0]


def tires(x: Tensor, weight: Tensor, **options: Any) -> Tensor:
    CALLS[0] += 1
    return right(x, weight, **options) * (1.0 if CALLS[0] < 5 else 2.0)


KEPT: list[Tensor] = []


def remembers(x: Tensor, weight: Tensor, **options: Any) -> Tensor:
    """Gives the result of its first call again, whatever it is called with later."""
    KEPT.append(x.detach().clone())
    return right(KEPT[0], weight, **options)


def dies_when_timed(x: Tensor, weight: Tensor, **options: Any) -> Tensor:
    CALLS[0] += 1
    if CALLS[0] > 2:
        raise RuntimeError("no more")
    return right(x, weight, **options)


def refuses(*_: Tensor, **__: Any) -> str | None:
    return "x: got a Monday, expected another day"


def _each(name: str, function: Callable[..., Any], **fields: Any) -> Candidate:
    return Candidate(name=name, op="rms_norm", load=lambda: function, recipe=SINGLE, **fields)


CANDIDATES = (
    _each("right", right),
    _each("one-percent-more", one_percent_more),
    _each("ends", ends),
    _each("hangs", hangs),
    _each("raises", raises),
    _each("changes-its-input", changes_its_input, differentiable=False),
    _each("writes-beside-its-input", writes_beside_its_input, differentiable=False),
    _each("binds-its-allocator", binds_its_allocator, differentiable=False),
    _each("writes-past-its-end", writes_past_its_end, differentiable=False),
    _each("writes-nothing", writes_nothing, differentiable=False),
    _each("gives-no-tensor", gives_no_tensor),
    _each("gives-two", gives_two),
    _each("gives-none", gives_none),
    _each("narrow", narrow, differentiable=False),
    _each("flat", flat, differentiable=False),
    _each("without-weight", without_weight),
    _each("refuses", right, supports=refuses),
    _each("forward-only", right, differentiable=False),
    _each("leaves-a-mess", leaves_a_mess, differentiable=False),
    _each("stops-python", stops_python),
    _each("takes-all-memory", takes_all_memory),
    _each("tires", tires),
    _each("remembers", remembers, differentiable=False),
    _each("dies-when-timed", dies_when_timed),
    _each("cuda-only", right, devices=("cuda",)),
)
