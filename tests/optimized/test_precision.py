"""Rounding in interpreted kernels is that of torch, bit by bit."""

import pytest
import torch
import triton
import triton.language as tl

from optimized.precision import (
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("draw", [_random_bits, _ties, _edges])
def test_an_operand_is_rounded_as_torch_rounds(draw: object, dtype: torch.dtype) -> None:
    assert callable(draw)
    values = draw()
    assert torch.equal(
        _rounded(values, dtype).nan_to_num(nan=0.125), values.to(dtype).float().nan_to_num(nan=0.125)
    ) and torch.equal(_rounded(values, dtype).isnan(), values.isnan())
