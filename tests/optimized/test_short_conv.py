"""The kernels of the short convolution against the definition in float64, and what they must do exactly.

Letters: B batch, T tokens, C channels, K taps.
"""

import re

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from optimized.short_conv import short_conv, supports
from tests.optimized.bounds import unit_roundoff
from tests.optimized.formulas import convolution_by_loops
from tests.optimized.refusals import assert_refused

SHAPES = [(2, 13, 20, 4), (1, 1, 3, 4), (3, 2, 40, 8), (1, 40, 33, 1), (2, 9, 70, 5)]
SIGMOID_ROUNDINGS = 12
"""Roundings of a logistic function in float32: four of its exponential, its sum, its quotient, and products with it."""


def _drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _run(x: Tensor, weight: Tensor, cotangent: Tensor, *, mask: Tensor | None = None) -> tuple[Tensor, ...]:
    """Returns the output and the gradients of x and weight."""
    inputs = [x.detach().requires_grad_(), weight.detach().requires_grad_()]
    out = short_conv(inputs[0], inputs[1], mask=mask)
    return (out.detach(), *torch.autograd.grad(out, inputs, cotangent))


def _expected(x: Tensor, weight: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
    inputs = [x.detach().double().requires_grad_(), weight.detach().double().requires_grad_()]
    out = convolution_by_loops(inputs[0], inputs[1])
    return (out.detach(), *torch.autograd.grad(out, inputs, cotangent.double()))


def _shifted(x: Tensor, weight: Tensor) -> Tensor:
    """Returns what each tap reads, ``(B, T, C, K)``."""
    K = weight.shape[1]
    return functional.pad(x, (0, 0, K - 1, 0)).unfold(1, K, 1)


def _bounds(x: Tensor, weight: Tensor, cotangent: Tensor, *, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Returns the largest legal errors of the output and the gradients of x and weight, of float64 arguments.

    The sum ``z`` of K products is off by ``(K + 1) u32`` of the sum of their magnitudes, and SiLU hands that on times
    at most 1.1, its slope times at most 0.5. A logistic function adds its roundings, relative to itself and to the two
    terms of the slope. The gradients are sums of K and of B T products, and every stored result is rounded once.
    """
    u32, u = unit_roundoff(torch.float32), unit_roundoff(dtype)
    B, T, _ = x.shape
    K = weight.shape[1]
    read = _shifted(x, weight)
    z = (read * weight).sum(-1)
    z_error = (K + 1) * u32 * (read * weight).abs().sum(-1)
    sigmoid = z.sigmoid()
    out = 1.1 * z_error + (SIGMOID_ROUNDINGS * u32 + u) * (z * sigmoid).abs()
    slope_terms = sigmoid * (1 + z.abs() * (1 - sigmoid))
    h = cotangent.abs() * slope_terms
    h_error = cotangent.abs() * (0.5 * z_error + SIGMOID_ROUNDINGS * u32 * slope_terms)
    of_x = _correlated(h_error + ((K + 1) * u32 + u) * h, weight.abs())
    of_weight = ((h_error + ((B * T + 4) * u32 + u) * h)[..., None] * read.abs()).sum((0, 1))
    tiny = torch.finfo(dtype).tiny
    return out + tiny, of_x + tiny, of_weight + tiny


def _correlated(h: Tensor, weight: Tensor) -> Tensor:
    """Returns ``sum_j weight[c, j] h[b, t + (K - 1) - j, c]``."""
    K = weight.shape[1]
    return (functional.pad(h, (0, 0, 0, K - 1)).unfold(1, K, 1) * weight.flip(-1)).sum(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_results_and_gradients_lie_within_the_roundings_of_the_recipe(
    shape: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    B, T, C, K = shape
    x, weight, cotangent = (
        _drawn(*size, seed=seed, dtype=dtype) for seed, size in enumerate([(B, T, C), (C, K), (B, T, C)])
    )
    bounds = _bounds(x.double(), weight.double(), cotangent.double(), dtype=dtype)
    results = zip(_run(x, weight, cotangent), _expected(x, weight, cotangent), bounds, strict=True)
    ratios = torch.stack([((actual.double() - exact).abs() / bound).max() for actual, exact, bound in results])
    assert bool((ratios <= 1).all()), ratios


@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.float32, torch.bfloat16], ids=str)
def test_a_mask_is_a_factor_of_the_input(mask_dtype: torch.dtype) -> None:
    x, weight, cotangent = _drawn(2, 19, 20, seed=0), _drawn(20, 4, seed=1), _drawn(2, 19, 20, seed=2)
    mask = (_drawn(2, 19, seed=3) > 0).to(mask_dtype)
    column = mask.float()[..., None]
    out, of_x, of_weight = _run(x, weight, cotangent, mask=mask)
    out_of_product, of_product, of_its_weight = _run(x * column, weight, cotangent)
    assert torch.equal(out, out_of_product)
    assert torch.equal(of_x, of_product * column)
    assert torch.equal(of_weight, of_its_weight)


def test_a_mask_of_other_numbers_is_a_factor_too() -> None:
    x, weight, mask = _drawn(1, 9, 8, seed=0), _drawn(8, 3, seed=1), torch.full((1, 9), 0.5)
    assert torch.equal(short_conv(x, weight, mask=mask), short_conv(0.5 * x, weight))


def test_a_masked_token_that_is_not_a_number_stays_one() -> None:
    x, mask = torch.ones(1, 6, 1), torch.ones(1, 6, dtype=torch.bool)
    x[0, 2], mask[0, 2] = torch.nan, False
    out = short_conv(x, torch.ones(1, 2), mask=mask)
    assert out.isnan().flatten().tolist() == [False, False, True, True, False, False]


def test_what_lies_beyond_the_end_reaches_no_gradient() -> None:
    # The sum of a token after the last one would be infinite, and the slope there not a number.
    x = torch.tensor([0.0, 0.0, 0.0, 0.0, 1e38]).reshape(1, 5, 1)
    _, of_x, _ = _run(x, torch.tensor([[10.0, 10.0, 1.0]]), torch.ones_like(x))
    assert bool(of_x.isfinite().all())


def test_strides_change_no_bit() -> None:
    fused, weight = _drawn(2, 11, 90, seed=0), _drawn(30, 4, seed=1)
    cotangent = _drawn(1, 1, 30, seed=2).expand(2, 11, 30)
    x = fused[..., 30:60]
    layouts = [x.contiguous(), x, *(x.transpose(a, 2).contiguous().transpose(a, 2) for a in (0, 1))]
    results = [_run(layout, weight, cotangent) for layout in layouts]
    results.append(_run(x.contiguous(), weight.t().contiguous().t(), cotangent.contiguous()))
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_a_sequence_does_not_depend_on_its_batch() -> None:
    x, weight = _drawn(3, 21, 16, seed=0), _drawn(16, 4, seed=1)
    assert torch.equal(short_conv(x, weight)[1:2], short_conv(x[1:2], weight))


def test_gradients_repeat_bit_by_bit() -> None:
    x, weight, cotangent = _drawn(2, 27, 20, seed=0), _drawn(20, 4, seed=1), _drawn(2, 27, 20, seed=2)
    first, second = (_run(x, weight, cotangent) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_weight_needs_no_gradient() -> None:
    x, weight, cotangent = _drawn(2, 9, 20, seed=0), _drawn(20, 4, seed=1), _drawn(2, 9, 20, seed=2)
    leaf = x.clone().requires_grad_()
    (of_x,) = torch.autograd.grad(short_conv(leaf, weight), leaf, cotangent)
    assert torch.equal(of_x, _run(x, weight, cotangent)[1])


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)], ids=str)
def test_an_empty_input_has_zero_gradients(shape: tuple[int, int, int]) -> None:
    x = torch.zeros(shape)
    out, of_x, of_weight = _run(x, torch.ones(shape[2], 3), x)
    assert (out.shape, of_x.shape) == (shape, shape)
    assert torch.equal(of_weight, torch.zeros(shape[2], 3))


ROWS = torch.zeros(1, 4, 8)
TAPS = torch.zeros(8, 4)


@pytest.mark.parametrize(
    ("x", "weight", "mask", "sentence"),
    [
        (ROWS.double(), TAPS, None, "dtype: got torch.float64, expected float32, bfloat16 or float16"),
        (ROWS, torch.zeros(8, 9), None, "weight: got 9 taps, expected 1 to 8"),
        (ROWS, torch.zeros(8, 0), None, "weight: got 0 taps, expected 1 to 8"),
        (
            ROWS, TAPS, torch.ones(1, 4, dtype=torch.int64),
            "mask: got dtype torch.int64, expected bool, float32, bfloat16 or float16",
        ),
        (
            ROWS, TAPS, torch.ones(1, 4, requires_grad=True),
            "mask: got a tensor that requires a gradient, expected a constant",
        ),
        (ROWS, TAPS, torch.ones(1, 4, device="meta"), "mask: got device meta, expected that of x, cpu"),
        (ROWS, TAPS.to("meta"), None, "device: got cpu and meta, expected the same device for all tensors"),
    ],
    ids=["dtype", "many-taps", "no-taps", "mask-dtype", "mask-gradient", "mask-device", "device"],
)  # fmt: skip
def test_what_cannot_be_computed_is_refused(x: Tensor, weight: Tensor, mask: Tensor | None, sentence: str) -> None:
    assert_refused(short_conv, supports, x, weight, mask=mask, sentence=sentence)


@pytest.mark.parametrize(
    ("x", "weight", "mask", "words"),
    [
        (torch.zeros(4, 8), TAPS, None, "x: got shape (4, 8), expected (B, T, C)"),
        (ROWS, torch.zeros(7, 4), None, "weight: got shape (7, 4), expected (8, K)"),
        (ROWS, torch.zeros(8), None, "weight: got shape (8,), expected (8, K)"),
        (ROWS, TAPS, torch.ones(4, 1, dtype=torch.bool), "mask: got shape (4, 1), expected (1, 4)"),
    ],
    ids=["x", "channels", "axes", "mask"],
)
def test_arguments_that_do_not_fit_are_named(x: Tensor, weight: Tensor, mask: Tensor | None, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        short_conv(x, weight, mask=mask)
