"""Tiles that a GPU gets wrong are not asked for."""

import pytest
import torch

from optimized.kernels.attention.tiling import tile_channels
from optimized.kernels.target import INTERPRETER


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [1, 12, 16, 18, 32])
def test_a_16_bit_tile_has_at_least_32_columns_on_a_gpu(width: int, dtype: torch.dtype) -> None:
    assert tile_channels(width, dtype=dtype, arch="sm_90") == 32


@pytest.mark.parametrize(("dtype", "arch"), [(torch.float32, "sm_90"), (torch.bfloat16, INTERPRETER)])
def test_other_tiles_are_no_wider_than_the_head_needs(dtype: torch.dtype, arch: str) -> None:
    assert [tile_channels(width, dtype=dtype, arch=arch) for width in (12, 18, 72)] == [16, 32, 128]
