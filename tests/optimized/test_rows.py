"""How tensors become rows: as views, in one order, whatever their strides."""

import pytest
import torch
import triton.language as tl

from optimized.kernels.rows import as_rows, elementwise_rows, index_dtype

VIEWS = {
    "contiguous": (torch.arange(120).view(2, 3, 4, 5), (24, 1, 1, 5)),
    "one axis": (torch.arange(5), (1, 1, 1, 5)),
    "fused": (torch.arange(240).view(2, 3, 8, 5)[:, :, 4:], (6, 4, 1, 5)),
    "transposed": (torch.arange(120).view(2, 4, 3, 5).transpose(1, 2), (2, 3, 4, 5)),
    "expanded": (torch.arange(5).expand(2, 3, 4, 5), (24, 1, 1, 5)),
    "columns apart": (torch.arange(120).view(24, 5).mT, (5, 1, 1, 24)),
}


@pytest.mark.parametrize("name", VIEWS)
def test_rows_are_a_view_in_the_order_of_the_leading_axes(name: str) -> None:
    x, shape = VIEWS[name]
    rows = as_rows(x)
    assert rows.shape == shape
    assert rows.data_ptr() == x.data_ptr()
    assert torch.equal(rows.flatten(0, 2), x.reshape(-1, x.shape[-1]))


def test_more_than_three_irregular_axes_are_copied() -> None:
    x = torch.arange(240).view(2, 3, 2, 2, 10).permute(3, 2, 1, 0, 4)
    rows = as_rows(x)
    assert rows.data_ptr() != x.data_ptr()
    assert torch.equal(rows.flatten(0, 2), x.reshape(-1, 10))


def test_contiguous_tensors_of_one_shape_are_a_single_row() -> None:
    assert [rows.shape for rows in elementwise_rows(torch.zeros(2, 3), torch.zeros(2, 3))] == [(1, 1, 1, 6)] * 2


def test_a_strided_tensor_keeps_the_rows_of_all() -> None:
    shapes = [rows.shape for rows in elementwise_rows(torch.zeros(2, 3), torch.zeros(3, 2).mT)]
    assert shapes == [(2, 1, 1, 3)] * 2


@pytest.mark.parametrize(("count", "dtype"), [(1, tl.int32), (2**31 - 2**16 - 1, tl.int32), (2**31 - 1, tl.int64)])
def test_numbers_of_rows_take_64_bits_only_where_32_could_overflow(count: int, dtype: tl.dtype) -> None:
    assert index_dtype(count) == dtype
