"""Rows of a tensor as kernels read and write them: strided inputs in place, contiguous outputs.

A tensor comes as ``(a, b, c, C)`` with four strides (``as_rows``), so that heads cut out of a fused projection are read
where they are. A row is numbered through ``a, b, c``; its number is split again in the kernel, in 32 bits wherever they
suffice (``index_dtype``), because a 64-bit division costs a GPU more than the row's load. The merged axes come first:
Triton compiles a division by a size of 1 away, so that a contiguous tensor needs none.
"""

from typing import Final

import torch
import triton
import triton.language as tl

from optimized.kernels.precision import to_stored

__all__ = ["as_rows", "elementwise_rows", "index_dtype", "load_rows", "store_rows", "tile_of_program"]

_LARGEST_BLOCK: Final = 1 << 16
"""No program numbers more rows than this beyond the last one."""


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def tile_of_program(
    width: tl.tensor, INDEX: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Returns the rows and the columns of this program: the tiles of ``width`` columns, row of tiles after row."""
    num_blocks = tl.cdiv(tl.cast(width, INDEX), BLOCK_C)  # in INDEX: the sum that rounds up can pass 2^31
    block = tl.cast(tl.program_id(0), INDEX)
    rows = block // num_blocks * BLOCK_R + tl.arange(0, BLOCK_R)
    columns = block % num_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    return rows, columns


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def load_rows(
    pointer: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    num_rows: tl.tensor,
    sizes: tl.tensor,
    strides: tl.tensor,
    width: tl.tensor,
) -> tl.tensor:
    """Returns a tile of an ``as_rows`` tensor in float32; rows and columns beyond its end are 0.

    Args:
        pointer: first element.
        rows: numbers of rows, in the type of ``index_dtype``.
        columns: numbers of columns.
        num_rows: rows of the tensor.
        sizes: its sizes ``b, c``.
        strides: its four strides.
        width: its columns.
    """
    outer = rows // sizes[1]
    offsets = (
        (outer // sizes[0]).to(tl.int64) * strides[0]
        + (outer % sizes[0]).to(tl.int64) * strides[1]
        + (rows % sizes[1]).to(tl.int64) * strides[2]
    )
    return tl.load(
        pointer + offsets[:, None] + columns.to(tl.int64)[None, :] * strides[3],
        mask=(rows < num_rows)[:, None] & (columns < width)[None, :],
        other=0.0,
    ).to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def store_rows(
    pointer: tl.tensor, values: tl.tensor, rows: tl.tensor, columns: tl.tensor, num_rows: tl.tensor, width: tl.tensor
) -> None:
    """Rounds a tile and stores it into a contiguous tensor of ``num_rows`` rows and ``width`` columns."""
    tl.store(
        pointer + rows.to(tl.int64)[:, None] * width + columns.to(tl.int64)[None, :],
        to_stored(values, pointer),
        mask=(rows < num_rows)[:, None] & (columns < width)[None, :],
    )


def index_dtype(count: int) -> tl.dtype:
    """Returns the integer type of the numbers of ``count`` rows or columns, those of the last, cut block included."""
    return tl.int32 if count < 2**31 - _LARGEST_BLOCK else tl.int64


def as_rows(x: torch.Tensor) -> torch.Tensor:
    """Returns ``x`` as ``(a, b, c, C)``: a view wherever the axes before the last merge into three, else a copy."""
    sizes: list[int] = []
    strides: list[int] = []
    for size, stride in zip(x.shape[:-1], x.stride()[:-1], strict=True):
        if size == 1:
            continue
        if strides and strides[-1] == size * stride:
            sizes[-1] *= size
            strides[-1] = stride
        else:
            sizes.append(size)
            strides.append(stride)
    if len(sizes) > 3 or x.numel() == 0:
        return x.reshape(-1, 1, 1, x.shape[-1])
    padding = 3 - len(sizes)
    return x.as_strided((*sizes, *[1] * padding, x.shape[-1]), (*strides, *[0] * padding, x.stride(-1)))


def elementwise_rows(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Returns tensors of one shape, with elements, as rows: a single one if all of them are contiguous."""
    if all(tensor.is_contiguous() for tensor in tensors):
        return [tensor.view(1, 1, 1, -1) for tensor in tensors]
    return [as_rows(tensor) for tensor in tensors]
