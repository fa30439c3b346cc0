"""Poisoned memory: while a candidate runs, fresh uninitialised tensors are full of NaN and stand between canaries.

A kernel that does not write its output returns NaN instead of what happened to be there (perhaps the reference's freed
result), and one that writes past its end kills a canary.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

__all__ = ["Canaries", "poisoned"]

_GUARD = 64
"""Elements on either side; a multiple of every alignment that kernels ask for."""

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

    Only strided CPU and CUDA tensors are guarded; allocations inside compiled libraries are out of reach.
    """
    canaries = Canaries()
    empty, empty_like, empty_strided, new_empty = torch.empty, torch.empty_like, torch.empty_strided, Tensor.new_empty

    def guarded(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        count = 1
        for size in shape:
            count *= size
        guard = _GUARD * dtype.itemsize
        buffer = empty(count * dtype.itemsize + 2 * guard, dtype=torch.uint8, device=device)
        buffer[:guard] = _CANARY
        buffer[guard + count * dtype.itemsize :] = _CANARY
        inside = buffer[guard : guard + count * dtype.itemsize].view(dtype)
        inside.fill_(torch.nan if dtype.is_floating_point else 1)
        canaries.watch(buffer, guard)
        return inside.view(shape)

    def poisoned_empty(*size: Any, **options: Any) -> Tensor:  # noqa: ANN401 - torch's own signature
        made = empty(*size, **options)
        if not _plain(made, options):
            return made
        return guarded(tuple(made.shape), made.dtype, made.device).requires_grad_(made.requires_grad)

    def poisoned_empty_like(like: Tensor, **options: Any) -> Tensor:  # noqa: ANN401 - torch's own signature
        return _filled(empty_like(like, **options))

    def poisoned_empty_strided(*args: Any, **options: Any) -> Tensor:  # noqa: ANN401 - torch's own signature
        return _filled(empty_strided(*args, **options))

    def poisoned_new_empty(self: Tensor, *size: Any, **options: Any) -> Tensor:  # noqa: ANN401 - torch's own signature
        return poisoned_empty(*size, **{"dtype": self.dtype, "device": self.device, **options})

    replaced: list[tuple[object, str, Callable[..., Tensor]]] = [
        (torch, "empty", poisoned_empty),
        (torch, "empty_like", poisoned_empty_like),
        (torch, "empty_strided", poisoned_empty_strided),
        (Tensor, "new_empty", poisoned_new_empty),
    ]
    kept = [empty, empty_like, empty_strided, new_empty]
    for owner, name, function in replaced:
        setattr(owner, name, function)
    try:
        yield canaries
    finally:
        for (owner, name, _), original in zip(replaced, kept, strict=True):
            setattr(owner, name, original)


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
