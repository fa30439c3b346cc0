"""The gated RMSNorm against the formula in float64, in plain torch and in Triton, and what its kernels do exactly.

Letters: C channels.
"""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from optimized.eager.gated_rms_norm import gated_rms_norm as eager_gated_rms_norm
from optimized.eager.gated_rms_norm import gated_rms_norm_stored
from optimized.gated_rms_norm import gated_rms_norm, supports
from optimized.rms_norm import rms_norm
from tests.optimized.bounds import unit_roundoff
from tests.optimized.refusals import assert_refused

EPS = 1e-5
SHAPES = [(5, 40), (2, 3, 2, 64), (1, 1), (3, 150), (7,), (2, 3, 2, 2, 24)]
"""Rows of 150 channels are wider than the interpreter's tiles."""

GATE_ROUNDINGS = 12
"""Roundings of SiLU and its slope in float32: four of the exponential, the sum, the quotient, and products with it."""

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def _drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _inputs(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns x, gate, weight and a cotangent."""
    x, gate, weight, cotangent = (
        _drawn(*size, seed=seed, dtype=dtype) for seed, size in enumerate((shape, shape, shape[-1:], shape))
    )
    return x, 3 * gate, weight, cotangent


def _formula(x: Tensor, gate: Tensor, weight: Tensor, *, zero_centered: bool = False) -> Tensor:
    factor = 1 + weight if zero_centered else weight
    return gate / (1 + (-gate).exp()) * x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * factor


def _run(
    function: Callable[..., Tensor], x: Tensor, gate: Tensor, weight: Tensor, cotangent: Tensor, **options: object
) -> tuple[Tensor, ...]:
    """Returns the output and the gradients of x, gate and weight."""
    inputs = [item.detach().requires_grad_() for item in (x, gate, weight)]
    out = function(*inputs, **options)
    return (out.detach(), *torch.autograd.grad(out, inputs, cotangent))


def _bounds(x: Tensor, gate: Tensor, factor: Tensor, cotangent: Tensor, *, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Returns the largest legal errors of the output and the gradients of x, gate and weight, of float64 arguments.

    The inverse root carries the C + 4 float32 roundings of a sum of C squares, SiLU and its slope those of the logistic
    function, relative to their terms. The mean of the backward pass adds C + 4, a sum over rows one a row, a few
    products six, and every stored result one rounding of its format. Terms that may cancel count by their magnitudes.
    """
    u32, u = unit_roundoff(torch.float32), unit_roundoff(dtype)
    C, num_rows = x.shape[-1], x[..., 0].numel()
    inverse = (x.square().mean(-1, keepdim=True) + EPS).rsqrt()
    normalised, sigmoid = (x * inverse).abs(), gate.sigmoid()
    relative = (C + 4 + GATE_ROUNDINGS + 6) * u32
    silu = (gate * sigmoid).abs()
    pulled = cotangent.abs() * silu
    scaled = pulled * factor.abs()
    of_x = inverse * (scaled + normalised * (scaled * normalised).mean(-1, keepdim=True))
    of_gate = cotangent.abs() * normalised * factor.abs() * sigmoid * (1 + gate.abs() * (1 - sigmoid))
    of_weight = (pulled * normalised).reshape(-1, C).sum(0)
    tiny = torch.finfo(dtype).tiny
    return (
        (relative + u) * silu * normalised * factor.abs() + tiny,
        (4 * relative + u) * of_x + tiny,
        (relative + u) * of_gate + tiny,
        (relative + num_rows * u32 + u) * of_weight + tiny,
    )


def _worst_ratios(function: Callable[..., Tensor], *shape: int, dtype: torch.dtype, zero_centered: bool) -> list[float]:
    x, gate, weight, cotangent = _inputs(*shape, dtype=dtype)
    actual = _run(function, x, gate, weight, cotangent, eps=EPS, zero_centered=zero_centered)
    exact = [item.double() for item in (x, gate, weight, cotangent)]
    expected = _run(_formula, *exact, zero_centered=zero_centered)
    factor = 1 + exact[2] if zero_centered else exact[2]
    bounds = _bounds(exact[0], exact[1], factor, exact[3], dtype=dtype)
    return [
        float(((a.double() - e).abs() / bound).nan_to_num(nan=torch.inf).max())
        for a, e, bound in zip(actual, expected, bounds, strict=True)
    ]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_results_and_gradients_lie_within_the_roundings_of_the_recipe(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    ratios = _worst_ratios(gated_rms_norm, *shape, dtype=dtype, zero_centered=False)
    assert max(ratios) <= 1, ratios


@pytest.mark.parametrize("channels", [40, 150])
def test_a_zero_centered_weight_is_added_to_one(channels: int) -> None:
    ratios = _worst_ratios(gated_rms_norm, 3, channels, dtype=torch.float32, zero_centered=True)
    assert max(ratios) <= 1, ratios


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_plain_torch_lies_within_the_same_roundings(dtype: torch.dtype) -> None:
    ratios = _worst_ratios(eager_gated_rms_norm, 2, 3, 2, 40, dtype=dtype, zero_centered=True)
    assert max(ratios) <= 1, ratios


def test_the_stored_version_rounds_on_the_way() -> None:
    x, gate, weight, _ = _inputs(5, 40, dtype=torch.bfloat16)
    stored = gated_rms_norm_stored(x, gate, weight, eps=EPS)
    assert not torch.equal(stored, eager_gated_rms_norm(x, gate, weight, eps=EPS))


def test_an_open_gate_leaves_the_norm() -> None:
    x, _, weight, _ = _inputs(5, 40)
    gate = torch.full_like(x, 128.0)
    assert torch.equal(gated_rms_norm(x, gate, weight, eps=EPS), 128 * rms_norm(x, weight, eps=EPS))


@pytest.mark.parametrize("channels", [8, 150])
def test_a_zero_row_gives_zero_and_finite_gradients(channels: int) -> None:
    x = torch.zeros(3, channels)
    gate, ones = torch.full_like(x, 128.0), torch.ones(channels)
    out, of_x, of_gate, of_weight = _run(gated_rms_norm, x, gate, ones, torch.ones_like(x), eps=0.25)
    assert torch.equal(of_x, torch.full_like(x, 256.0))
    assert not any(bool(item.any()) for item in (out, of_gate, of_weight))


@pytest.mark.parametrize("gate", [-1e30, -200.0, 200.0, 1e30])
def test_large_gates_give_no_nan(gate: float) -> None:
    x, _, weight, cotangent = _inputs(3, 8)
    results = _run(gated_rms_norm, x, torch.full_like(x, gate), weight, cotangent, eps=EPS)
    assert all(bool(item.isfinite().all()) for item in results)


@pytest.mark.parametrize("channels", [24, 72])
def test_strides_change_no_bit(channels: int) -> None:
    fused, gates = _drawn(2, 3, 7, channels, seed=0), _drawn(2, 4, 3, channels, seed=1)
    weight, cotangent = _drawn(channels, seed=2), _drawn(channels, seed=3).expand(2, 3, 4, channels)
    x, gate = fused[:, :, 2:6], gates.transpose(1, 2)
    strided = _run(gated_rms_norm, x, gate, weight, cotangent, eps=EPS)
    plain = _run(gated_rms_norm, x.contiguous(), gate.contiguous(), weight, cotangent.contiguous(), eps=EPS)
    assert all(torch.equal(a, b) for a, b in zip(strided, plain, strict=True))


@pytest.mark.parametrize("channels", [24, 72])
def test_gradients_repeat_bit_by_bit(channels: int) -> None:
    first, second = (_run(gated_rms_norm, *_inputs(30, channels), eps=EPS) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("channels", [24, 72])
def test_the_weight_needs_no_gradient(channels: int) -> None:
    x, gate, weight, cotangent = _inputs(6, channels)
    leaves = [item.clone().requires_grad_() for item in (x, gate)]
    grads = torch.autograd.grad(gated_rms_norm(leaves[0], leaves[1], weight, eps=EPS), leaves, cotangent)
    expected = _run(gated_rms_norm, x, gate, weight, cotangent, eps=EPS)
    assert all(torch.equal(a, b) for a, b in zip(grads, expected[1:3], strict=True))


def test_formats_may_differ() -> None:
    x, gate, weight, cotangent = _inputs(6, 40)
    results = _run(gated_rms_norm, x.bfloat16(), gate, weight.half(), cotangent.bfloat16(), eps=EPS)
    assert [item.dtype for item in results] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float16]


def test_no_rows_give_a_zero_weight_gradient() -> None:
    results = _run(gated_rms_norm, *_inputs(0, 8), eps=EPS)
    assert [tuple(item.shape) for item in results] == [(0, 8), (0, 8), (0, 8), (8,)]
    assert torch.equal(results[3], torch.zeros(8))


ROWS, WEIGHT = torch.zeros(3, 8), torch.zeros(8)


@pytest.mark.parametrize(
    ("x", "gate", "weight", "sentence"),
    [
        (ROWS.double(), ROWS, WEIGHT, "dtype: got torch.float64, expected float32, bfloat16 or float16"),
        (ROWS, ROWS.int(), WEIGHT, "dtype: got torch.int32, expected float32, bfloat16 or float16"),
        (*2 * [torch.zeros(1, 32769)], torch.zeros(32769), "x: got 32769 channels, expected 1 to 32768"),
        (*2 * [torch.zeros(3, 0)], torch.zeros(0), "x: got 0 channels, expected 1 to 32768"),
        (ROWS, ROWS.to("meta"), WEIGHT, "device: got cpu and meta, expected the same device for all tensors"),
    ],
    ids=["x-dtype", "gate-dtype", "wide", "empty", "device"],
)
def test_what_cannot_be_computed_is_refused(x: Tensor, gate: Tensor, weight: Tensor, sentence: str) -> None:
    assert_refused(gated_rms_norm, supports, x, gate, weight, eps=EPS, sentence=sentence)


@pytest.mark.parametrize("function", [gated_rms_norm, eager_gated_rms_norm, gated_rms_norm_stored])
@pytest.mark.parametrize(
    ("gate", "weight", "words"),
    [
        (torch.zeros(8), WEIGHT, "gate: got shape (8,), expected the shape of x, (3, 8)"),
        (ROWS, torch.zeros(7), "weight: got shape (7,), expected"),
    ],
    ids=["gate", "weight"],
)
def test_shapes_that_do_not_fit_are_named(
    function: Callable[..., Tensor], gate: Tensor, weight: Tensor, words: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        function(ROWS, gate, weight, eps=EPS)


def test_an_epsilon_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"eps: got 0\.0, expected a positive number"):
        gated_rms_norm(ROWS, ROWS, WEIGHT, eps=0.0)
