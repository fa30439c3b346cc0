"""Rounding in interpreted kernels is that of torch, bit by bit."""

from collections.abc import Callable

import pytest
import torch
import triton
import triton.language as tl

from optimized.kernels.precision import (
    allocate_output,
    finish_output,
    kernel_input,
    kernels_are_interpreted,
    non_stop_arithmetic,
    to_operand,
    to_stored,
    triton_dtype,
)


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _round_kernel(
    source: tl.tensor, target: tl.tensor, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr, BLOCK: tl.constexpr
) -> None:
    """Rounds BLOCK numbers as a kernel rounds the operand of a matrix product."""
    offsets = tl.arange(0, BLOCK)
    operand = to_operand(tl.load(source + offsets), DTYPE, INTERPRETED)
    tl.store(target + offsets, to_stored(operand, target))


def _rounded(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    target = torch.empty_like(values)
    with non_stop_arithmetic():
        _round_kernel[(1,)](
            values,
            target,
            DTYPE=triton_dtype(dtype),
            INTERPRETED=kernels_are_interpreted(),
            BLOCK=values.numel(),
        )
    return target


def _random_bits() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(-(2**31), 2**31, (2**16,), generator=generator).int().view(torch.float32)


def _ties() -> torch.Tensor:
    """Returns numbers halfway between two neighbours of bfloat16, or of float16, and their neighbours in float32."""
    odd = torch.arange(2**10, dtype=torch.int32) * 2 + 1
    halfway = torch.cat([0x3F800000 + odd * 0x8000, 0x38800000 + odd * 0x1000])
    return torch.cat([halfway - 1, halfway, halfway + 1, halfway]).view(torch.float32)


def _edges() -> torch.Tensor:
    """Returns zeros, infinities, NaN, the largest numbers, and the subnormal numbers of all three formats."""
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 65504.0, 65519.0, 65520.0])
    largest = 0x7F7F7FF8 + torch.arange(16, dtype=torch.int32)
    subnormal = torch.cat(
        [torch.arange(1000, dtype=torch.int32) * 0x1003, 0x33000000 + torch.arange(1024).int() * 0x5555]
    )
    return torch.cat([special, largest.view(torch.float32), subnormal.view(torch.float32)])[:2048]


def _same(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    """Returns whether two tensors have the same bits, where any NaN is as good as another."""
    is_nan = expected.isnan()
    return torch.equal(actual.isnan(), is_nan) and torch.equal(
        actual[~is_nan].view(torch.int32), expected[~is_nan].view(torch.int32)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("draw", [_random_bits, _ties, _edges])
def test_an_operand_is_rounded_as_torch_rounds(draw: Callable[[], torch.Tensor], dtype: torch.dtype) -> None:
    values = draw()
    assert _same(_rounded(values, dtype), values.to(dtype).float())


def test_these_kernels_are_interpreted() -> None:
    assert kernels_are_interpreted()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_an_interpreted_kernel_sees_no_16_bit_tensor(dtype: torch.dtype) -> None:
    tensor = torch.randn(3, 4).to(dtype).T
    copy = kernel_input(tensor)
    output = allocate_output((3, 4), dtype=dtype, device=tensor.device)
    assert (copy.dtype, output.dtype) == (torch.float32, torch.float32)
    assert torch.equal(copy.to(dtype), tensor)
    assert finish_output(output, dtype=dtype).dtype == dtype


def test_a_float32_tensor_is_read_in_place() -> None:
    tensor = torch.randn(3, 4).T
    assert kernel_input(tensor) is tensor


def test_a_format_without_kernels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dtype: got torch\.float64"):
        triton_dtype(torch.float64)
