import pytest
import torch
from torch import Tensor

from optimized.flex_attention import flex_attention
from tests.optimized.formulas import attention_by_loops
from tests.reference.agree import assert_refused

WINDOWS: list[tuple[int | None, int | None]] = [(None, None), (None, 0), (2, 0), (1, 1)]
KEY_MASK = torch.tensor([[True, False, True, True, True, False], [False, False, False, True, True, True]])


def inputs(*, dtype: torch.dtype, T: int = 5, S: int = 6, G: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, T, 4, 8), (2, S, G, 8), (2, S, G, 8))
    query, key, value = (torch.randn(*shape, generator=generator).to(dtype) for shape in shapes)
    return query, key, value


def tolerance(value: Tensor, *, roundings: int) -> float:
    """What the roundings on the way to one element can do to it.

    Each moves it by half a unit of the dtype times the largest value times the largest logit, which stays below 4.
    """
    return roundings * torch.finfo(value.dtype).eps / 2 * 4 * float(value.abs().max())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "roundings"),
    [
        pytest.param(torch.float32, 8 + 2 * 6 + 8, id="float32: two sums and a softmax"),
        pytest.param(torch.bfloat16, 2, id="bfloat16: softmax weights and result"),
    ],
)
def test_one_compiled_program_serves_every_window_and_key_mask(dtype: torch.dtype, roundings: int) -> None:
    query, key, value = inputs(dtype=dtype)
    worst = 0.0
    for window in WINDOWS:
        for key_mask in (None, KEY_MASK):
            expected, _ = attention_by_loops(query, key, value, scale=0.3, window=window, key_mask=key_mask)
            out = flex_attention(query, key, value, scale=0.3, window=window, key_mask=key_mask).out
            worst = max(worst, float((out.double() - expected).abs().max()))
    assert worst <= tolerance(value, roundings=roundings)


@pytest.mark.slow
def test_a_row_that_sees_no_key_is_zero() -> None:
    query, key, value = inputs(dtype=torch.float32, T=6, S=5)
    out = flex_attention(query, key, value, scale=0.3, window=(None, 0)).out
    assert not out[:, 0].any()
    assert bool(out[:, 1:].any())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_formats_are_refused(dtype: torch.dtype) -> None:
    assert_refused(lambda: flex_attention(*inputs(dtype=dtype), scale=0.3), ValueError, "query", str(dtype), "bfloat16")


def test_sinks_are_refused() -> None:
    query, key, value = inputs(dtype=torch.float32)
    assert_refused(
        lambda: flex_attention(query, key, value, scale=0.3, sinks=torch.zeros(4)), ValueError, "sinks", "None"
    )


def test_a_bias_is_refused() -> None:
    query, key, value = inputs(dtype=torch.float32)
    assert_refused(
        lambda: flex_attention(query, key, value, scale=0.3, bias=torch.zeros(1, 1, 5, 6)), ValueError, "bias", "None"
    )


def test_an_empty_axis_is_refused() -> None:
    assert_refused(
        lambda: flex_attention(*inputs(dtype=torch.float32, S=0), scale=0.3), ValueError, "no empty axis"
    )  # fmt: skip


def test_heads_that_do_not_divide_are_refused() -> None:
    assert_refused(
        lambda: flex_attention(*inputs(dtype=torch.float32, G=3), scale=0.3), ValueError, "query heads", "multiple of 3"
    )  # fmt: skip
