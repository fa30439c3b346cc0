"""Poisoned memory: while a candidate runs, fresh uninitialised tensors are full of NaN and stand between canaries.

A kernel that does not write its output returns NaN instead of what happened to be there (perhaps the reference's freed
result), and one that writes past its end kills a canary.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

__all__ = ["Canaries", "poisoned"]

_GUARD = 4096
"""Elements on either side: a store that is off by a row or a small tile still lands in them. A multiple of every
alignment that kernels ask for."""

_NOT_CANDIDATES = frozenset({*sys.stdlib_module_names, "torch", "numpy", "triton"})
"""Packages whose own names stay: torch calls its allocators by another way, the others have none of them."""

_CANARY = 0x5A


class Canaries:
    """The guarded buffers of one run."""

    def __init__(self) -> None:
        self._buffers: list[tuple[Tensor, int]] = []

    def watch(self, buffer: Tensor, guard_bytes: int) -> None:
        """Takes a byte buffer whose first and last ``guard_bytes`` are canaries."""
        self._buffers.append((buffer, guard_bytes))

    def killed(self) -> int:
        """Returns how many buffers were written outside their bounds."""
        return sum(
            not bool((buffer[:guard] == _CANARY).all() and (buffer[-guard:] == _CANARY).all())
            for buffer, guard in self._buffers
        )


@contextmanager
def poisoned() -> Iterator[Canaries]:
    """Replaces torch's allocators of uninitialised memory by poisoning ones; gives the canaries.

    Contiguous CPU and CUDA tensors are guarded, others filled. Names that a module bound before, by
    ``from torch import empty_like``, are replaced as well. Out of reach are allocations inside compiled libraries, and
    allocators that were kept elsewhere: in a closure, a container, a class.
    """
    canaries = Canaries()
    empty, empty_like, empty_strided, new_empty = torch.empty, torch.empty_like, torch.empty_strided, Tensor.new_empty

    def poison(made: Tensor, options: dict[str, Any]) -> Tensor:
        if not _plain(made, options):
            return _filled(made)
        return _guarded(made, canaries, empty).requires_grad_(made.requires_grad)

    def poisoned_empty(*size: Any, **options: Any) -> Tensor:  # noqa: ANN401 - torch's own signature
        return poison(empty(*size, **options), options)

    def poisoned_empty_like(like: Tensor, **options: Any) -> Tensor:  # noqa: ANN401 - torch's own signature
        return poison(empty_like(like, **options), options)

    def poisoned_empty_strided(*args: Any, **options: Any) -> Tensor:  # noqa: ANN401 - torch's own signature
        return poison(empty_strided(*args, **options), options)

    def poisoned_new_empty(self: Tensor, *size: Any, **options: Any) -> Tensor:  # noqa: ANN401 - torch's own signature
        chosen = {name: value for name, value in options.items() if value is not None}
        return poisoned_empty(*size, **{"dtype": self.dtype, "device": self.device, **chosen})

    originals: list[tuple[object, str, Callable[..., Tensor]]] = [
        (torch, "empty", empty), (torch, "empty_like", empty_like), (torch, "empty_strided", empty_strided),
        (Tensor, "new_empty", new_empty),
    ]  # fmt: skip
    poisoning = {
        id(empty): poisoned_empty, id(empty_like): poisoned_empty_like, id(empty_strided): poisoned_empty_strided,
        id(new_empty): poisoned_new_empty,
    }  # fmt: skip
    places = [*originals, *_bound_to([original for *_, original in originals])]
    for owner, name, original in places:
        setattr(owner, name, poisoning[id(original)])
    try:
        yield canaries
    finally:
        for owner, name, original in places:
            setattr(owner, name, original)


def _bound_to(functions: Sequence[Callable[..., Tensor]]) -> list[tuple[object, str, Callable[..., Tensor]]]:
    """Returns the names of loaded modules that are bound to one of the functions: module, name, function."""
    wanted = {id(function) for function in functions}
    modules = [
        module for name, module in list(sys.modules.items())
        if isinstance(module, ModuleType) and name.partition(".")[0] not in _NOT_CANDIDATES and name != __name__
    ]  # fmt: skip
    return [
        (module, name, value)
        for module in modules if not wanted.isdisjoint(map(id, list(vars(module).values())))
        for name, value in list(vars(module).items()) if id(value) in wanted
    ]  # fmt: skip


def _guarded(made: Tensor, canaries: Canaries, empty: Callable[..., Tensor]) -> Tensor:
    """Returns a tensor like ``made`` that is full of NaN (integers: of 1) and stands between canaries."""
    size = made.numel() * made.dtype.itemsize
    guard = _GUARD * made.dtype.itemsize
    buffer = empty(size + 2 * guard, dtype=torch.uint8, device=made.device)
    buffer[:guard] = _CANARY
    buffer[guard + size :] = _CANARY
    inside = buffer[guard : guard + size].view(made.dtype)
    inside.fill_(torch.nan if made.dtype.is_floating_point else 1)
    canaries.watch(buffer, guard)
    return inside.view(made.shape)


def _plain(made: Tensor, options: dict[str, Any]) -> bool:
    """Returns whether a tensor is one that can be guarded: contiguous, of a dtype that can be viewed from bytes."""
    return (
        type(made) is Tensor  # the fake tensors of a compiler have no memory
        and made.layout is torch.strided
        and made.device.type in ("cpu", "cuda")
        and made.is_contiguous()
        and "out" not in options
        and not options.get("pin_memory")
        and not made.dtype.is_complex
        and made.dtype is not torch.bool
    )


def _filled(made: Tensor) -> Tensor:
    if type(made) is Tensor and made.is_floating_point() and made.device.type in ("cpu", "cuda"):
        with torch.no_grad():
            made.fill_(torch.nan)
    return made
