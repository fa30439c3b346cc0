"""Rounding inside Triton kernels that is the same on a GPU and in Triton's interpreter.

A kernel here stores tensors in ``float32``, ``bfloat16`` or ``float16``, computes in float32, and rounds a value to the
storage format only where it becomes the operand of a matrix product or an output. The interpreter's bfloat16 cannot do
that: its arithmetic works on raw bits and its cast truncates. An interpreted kernel therefore never sees a 16-bit
tensor. The launcher hands it exact float32 copies (``kernel_input``) and float32 outputs that torch rounds afterwards
(``allocate_output``, ``finish_output``), and inside the kernel ``to_operand`` rounds to the nearest 16-bit value and
stays float32. Products of two such values are exact in float32, as they are on a GPU. On a GPU every helper is the
plain cast or nothing at all.

Convention for a kernel: constexpr arguments ``DTYPE`` (``triton_dtype(storage)``) and ``INTERPRETED``
(``kernels_are_interpreted()``); loads give operands as they are stored (already rounded, so they go to ``tl.dot``
directly), ``to_operand(x, DTYPE, INTERPRETED)`` rounds a computed float32 value before ``tl.dot``, and a store casts
with ``to_stored(x, pointer)``. Every launch stands in ``with non_stop_arithmetic():``.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
import triton
import triton.language as tl

__all__ = [
    "STORAGE_DTYPES",
    "allocate_output",
    "finish_output",
    "kernel_input",
    "kernels_are_interpreted",
    "non_stop_arithmetic",
    "to_operand",
    "to_stored",
    "triton_dtype",
]

STORAGE_DTYPES: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16, torch.float16)
"""Formats in which a kernel of this package can read and write tensors."""

_TRITON_DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def to_operand(x: tl.tensor, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr) -> tl.tensor:
    """Rounds float32 ``x`` to the nearest ``DTYPE`` value, ties to even; the interpreter keeps it in float32."""
    if not INTERPRETED:
        operand = x.to(DTYPE)
    elif tl.bfloat16 == DTYPE:
        bits = x.to(tl.uint32, bitcast=True)
        is_finite = (bits & 0x7F800000) != 0x7F800000
        # Adding half a unit less one, plus the last kept bit, carries into the kept bits exactly where round-half-even
        # goes up, also from a subnormal to a normal number and from the largest number to infinity.
        rounded = (bits + ((bits >> 16) & 1) + 0x7FFF) & 0xFFFF0000
        operand = tl.where(is_finite, rounded, bits).to(tl.float32, bitcast=True)
    else:
        operand = x.to(DTYPE).to(tl.float32)
    return operand


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def to_stored(x: tl.tensor, pointer: tl.tensor) -> tl.tensor:
    """Casts ``x`` to the format that ``pointer`` points to, rounding to nearest."""
    return x.to(pointer.dtype.element_ty)


def kernels_are_interpreted() -> bool:
    """Returns whether this package's kernels run in Triton's interpreter instead of being compiled.

    Triton decides that when a kernel is decorated, its own library included, so ``TRITON_INTERPRET=1`` must stand in
    the environment before Triton is imported. The answer is read off a decorated function: a later change of the
    setting cannot make it wrong.
    """
    return not isinstance(to_operand, triton.JITFunction)


def non_stop_arithmetic() -> AbstractContextManager[object]:
    """Returns the context for a launch: infinities and NaN arise in silence in the interpreter too, as on a GPU.

    The interpreter computes with numpy, which warns of every overflow and of every infinity less itself.
    """
    return np.errstate(all="ignore") if kernels_are_interpreted() else nullcontext()


def triton_dtype(dtype: torch.dtype) -> tl.dtype:
    """Returns Triton's name of a storage format.

    Raises:
        ValueError: ``dtype`` is not one of ``STORAGE_DTYPES``.
    """
    if dtype not in _TRITON_DTYPES:
        raise ValueError(f"dtype: got {dtype}, expected one of {', '.join(map(str, STORAGE_DTYPES))}")
    return _TRITON_DTYPES[dtype]


def kernel_input(tensor: torch.Tensor) -> torch.Tensor:
    """Returns ``tensor`` as a kernel can read it: itself on a GPU, an exact float32 copy of 16 bits if interpreted."""
    if kernels_are_interpreted() and tensor.dtype in (torch.bfloat16, torch.float16):
        return tensor.float()
    return tensor


def allocate_output(shape: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Returns an uninitialised contiguous tensor that a kernel can write; ``finish_output`` makes it ``dtype``."""
    is_widened = kernels_are_interpreted() and dtype in (torch.bfloat16, torch.float16)
    return torch.empty(tuple(shape), dtype=torch.float32 if is_widened else dtype, device=device)


def finish_output(tensor: torch.Tensor, *, dtype: torch.dtype) -> torch.Tensor:
    """Returns a kernel's output in ``dtype``: rounds what an interpreted kernel left in float32, else does nothing."""
    return tensor.to(dtype)
