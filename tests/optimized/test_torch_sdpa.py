import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from optimized.torch_sdpa import SdpaOutput, flash_attention, math_attention, supports_flash
from tests.optimized.formulas import attention_by_loops, half_ulp
from tests.reference.agree import assert_agree, assert_gradcheck, assert_refused

WINDOWS = [(None, None), (None, 0), (2, 0), (1, 1), (0, None)]
BACKENDS = pytest.mark.parametrize("attend", [flash_attention, math_attention])
Attend = Callable[..., SdpaOutput]


def drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def inputs(T: int, S: int, *, dtype: torch.dtype = torch.float64, G: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    return (
        drawn(2, T, 4, 8, seed=0, dtype=dtype),
        drawn(2, S, G, 8, seed=1, dtype=dtype),
        drawn(2, S, G, 8, seed=2, dtype=dtype),
    )


def allowed(value: Tensor, *, keys: int, width: int) -> tuple[int, float]:
    """Roundings on the way to one element (two sums and a softmax) and the magnitude that they act on.

    A logit of a few units in size moves a weight by its own error, so that the largest value times the largest logit
    bounds what one rounding can do; logits of the draws here stay below 4.
    """
    return width + 2 * keys + 8, 4 * float(value.double().abs().max())


@BACKENDS
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("lengths", [(5, 5), (3, 6), (6, 3)])
def test_windows_align_at_the_last_token(
    attend: Attend, window: tuple[int | None, int | None], lengths: tuple[int, int]
) -> None:
    query, key, value = inputs(*lengths)
    expected, _ = attention_by_loops(query, key, value, scale=0.3, window=window)
    operations, condition = allowed(value, keys=lengths[1], width=8)
    out = attend(query, key, value, scale=0.3, window=window).out
    assert_agree(out, expected, operations=operations, condition=condition)


@BACKENDS
def test_key_mask_and_bias_hide_and_shift(attend: Attend) -> None:
    query, key, value = inputs(4, 5)
    key_mask = torch.tensor([[True, False, True, True, False], [True, True, False, True, True]])
    bias = drawn(4, 1, 5, seed=3)
    bias[0, 0, 3] = -math.inf
    options = {"scale": 0.3, "window": (3, 1), "key_mask": key_mask, "bias": bias}
    expected, _ = attention_by_loops(query, key, value, scale=0.3, window=(3, 1), key_mask=key_mask, bias=bias)
    operations, condition = allowed(value, keys=5, width=8)
    assert_agree(attend(query, key, value, **options).out, expected, operations=operations, condition=condition)


@BACKENDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_row_that_sees_no_key_is_zero_with_zero_gradients(attend: Attend, dtype: torch.dtype) -> None:
    query, key, value = (part.requires_grad_() for part in inputs(4, 2, dtype=dtype))
    out = attend(query, key, value, scale=0.3, window=(None, 0)).out
    gradients = torch.autograd.grad(out, (query, key, value), drawn(*out.shape, seed=4, dtype=dtype))
    assert not out[:, :2].any()
    assert not gradients[0][:, :2].any()
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


@BACKENDS
def test_a_hidden_key_has_gradients_of_exactly_zero(attend: Attend) -> None:
    query, key, value = (part.requires_grad_() for part in inputs(3, 4, dtype=torch.float32))
    key_mask = torch.tensor([[True, True, False, True]] * 2)
    out = attend(query, key, value, scale=0.3, key_mask=key_mask).out
    gradients = torch.autograd.grad(out, (key, value), drawn(*out.shape, seed=4, dtype=torch.float32))
    assert not any(gradient[:, 2].any() for gradient in gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_math_backend_rounds_sixteen_bits_once(dtype: torch.dtype) -> None:
    query, key, value = inputs(4, 6, dtype=dtype)
    exact, _ = attention_by_loops(query, key, value, scale=0.3)
    operations, condition = allowed(value, keys=6, width=8)
    float32_error = operations * condition * torch.finfo(torch.float32).eps
    distance = (math_attention(query, key, value, scale=0.3).out.double() - exact).abs()
    assert bool((distance <= half_ulp(exact, dtype) + float32_error).all())


def test_the_bias_has_a_gradient_in_the_math_backend() -> None:
    query, key, value = inputs(2, 3)
    bias = drawn(2, 4, 2, 3, seed=3).requires_grad_()
    weight = drawn(2, 2, 4, 8, seed=4)
    assert_gradcheck(lambda added: math_attention(query, key, value, scale=0.3, bias=added).out * weight, [bias])


@BACKENDS
def test_no_lse_is_provided(attend: Attend) -> None:
    assert attend(*inputs(2, 3), scale=0.3).lse is None


@BACKENDS
def test_sinks_are_refused(attend: Attend) -> None:
    query, key, value = inputs(2, 3)
    assert_refused(lambda: attend(query, key, value, scale=0.3, sinks=torch.zeros(4)), ValueError, "sinks", "None")


def test_flash_refuses_another_value_width() -> None:
    query, key, value = inputs(2, 3)
    assert_refused(lambda: flash_attention(query, key, value[..., :4], scale=0.3), ValueError, "value width", "4", "8")


def test_flash_refuses_a_bias_that_requires_a_gradient() -> None:
    bias = torch.zeros(1, 1, 2, 3, requires_grad=True)
    sentence = supports_flash(*inputs(2, 3), scale=0.3, bias=bias)
    assert sentence == "bias: got one that requires a gradient, expected a constant one"


@BACKENDS
def test_heads_that_do_not_divide_are_refused(attend: Attend) -> None:
    query, key, value = inputs(2, 3, G=3)
    assert_refused(lambda: attend(query, key, value, scale=0.3), ValueError, "query heads", "4", "multiple of 3")
