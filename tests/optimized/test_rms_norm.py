"""The RMSNorm kernels against the formula in float64, and what they must do exactly."""

import pytest
import torch

from optimized.rms_norm import rms_norm, supports
from tests.optimized.bounds import rms_norm_bounds
from tests.optimized.refusals import assert_refused

EPS = 1e-5

SHAPES = [(5, 40), (2, 7, 3, 72), (1, 1), (3, 300), (40, 16), (7,), (0, 8), (2, 3, 2, 2, 24)]


def _formula(x: torch.Tensor, weight: torch.Tensor, *, eps: float, zero_centered: bool) -> torch.Tensor:
    factor = 1 + weight if zero_centered else weight
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * factor


def _worst_ratios(x: torch.Tensor, weight: torch.Tensor, *, eps: float, zero_centered: bool) -> dict[str, float]:
    """Returns the largest error over bound of the output and of both gradients, for a random cotangent."""
    cotangent = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x.dtype)
    inputs = [x.detach().requires_grad_(), weight.detach().requires_grad_()]
    out = rms_norm(inputs[0], inputs[1], eps=eps, zero_centered=zero_centered)
    actual = (out, *torch.autograd.grad(out, inputs, cotangent))
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    expected_out = _formula(exact[0], exact[1], eps=eps, zero_centered=zero_centered)
    expected = (expected_out, *torch.autograd.grad(expected_out, exact, cotangent.double()))
    bounds = rms_norm_bounds(
        x.double(),
        (1 + weight.double()) if zero_centered else weight.double(),
        cotangent.double(),
        eps=eps,
        dtype=x.dtype,
        weight_dtype=weight.dtype,
    )
    return {
        name: float(((a.detach().double() - e.detach()).abs() / bound).nan_to_num(nan=torch.inf).max())
        if a.numel()
        else 0.0
        for name, a, e, bound in zip(("out", "x", "weight"), actual, expected, bounds, strict=True)
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_results_and_gradients_lie_within_the_roundings_of_the_recipe(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(size, generator=generator).to(dtype) for size in (shape, shape[-1:]))
    ratios = _worst_ratios(x, weight, eps=EPS, zero_centered=False)
    assert max(ratios.values()) <= 1, ratios


@pytest.mark.parametrize("channels", [40, 150])
@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_zero_centered_weight_is_added_to_one_before_any_rounding(weight_dtype: torch.dtype, channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, channels, generator=generator).bfloat16()
    weight = (0.01 * torch.randn(channels, generator=generator)).to(weight_dtype)
    ratios = _worst_ratios(x, weight, eps=EPS, zero_centered=True)
    assert max(ratios.values()) <= 1, ratios


@pytest.mark.parametrize("magnitude", [1e-4, 1e4])
def test_eps_stands_inside_the_root(magnitude: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(size, generator=generator) for size in ((5, 40), (40,)))
    ratios = _worst_ratios(magnitude * x, weight, eps=1e-8, zero_centered=False)
    assert max(ratios.values()) <= 1, ratios


def test_a_zero_row_gives_zero_and_the_gradient_of_the_bare_root() -> None:
    x = torch.zeros(3, 8, requires_grad=True)
    out = rms_norm(x, torch.ones(8), eps=0.25)
    (gradient,) = torch.autograd.grad(out, x, torch.ones(3, 8))
    assert torch.equal(out, torch.zeros(3, 8))
    assert torch.equal(gradient, torch.full((3, 8), 2.0))


def test_strides_change_no_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    fused = torch.randn(2, 5, 9, 24, generator=generator)
    weight = torch.randn(24, generator=generator)
    cotangent = torch.randn(24, generator=generator).expand(2, 5, 5, 24)

    def run(x: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        inputs = [x.detach().requires_grad_(), weight.detach().requires_grad_()]
        out = rms_norm(inputs[0], inputs[1], eps=EPS)
        return (out.detach(), *torch.autograd.grad(out, inputs, gradient))

    heads = fused[:, :, 2:7]
    results = [
        run(x, cotangent) for x in (heads, heads.contiguous(), heads.transpose(1, 3).contiguous().transpose(1, 3))
    ]
    results.append(run(heads.contiguous(), cotangent.contiguous()))
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("channels", [24, 150])
def test_the_weight_needs_no_gradient(channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, cotangent = torch.randn(2, 9, channels, generator=generator)
    weight = torch.randn(channels, generator=generator)
    x.requires_grad_()
    (alone,) = torch.autograd.grad(rms_norm(x, weight, eps=EPS), x, cotangent)
    (beside, _) = torch.autograd.grad(rms_norm(x, weight.requires_grad_(), eps=EPS), [x, weight], cotangent)
    assert torch.equal(alone, beside)


@pytest.mark.parametrize("channels", [24, 150])
def test_the_weight_s_gradient_repeats_bit_by_bit(channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, cotangent = torch.randn(2, 40, channels, generator=generator)
    weight = torch.randn(channels, generator=generator).requires_grad_()
    first, second = (torch.autograd.grad(rms_norm(x, weight, eps=EPS), weight, cotangent)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("x", "weight", "sentence"),
    [
        (
            torch.zeros(3, 8).double(), torch.zeros(8),
            "dtype: got torch.float64, expected float32, bfloat16 or float16",
        ),
        (torch.zeros(1, 32769), torch.zeros(32769), "x: got 32769 channels, expected 1 to 32768"),
        (torch.zeros(3, 0), torch.zeros(0), "x: got 0 channels, expected 1 to 32768"),
        (
            torch.zeros(3, 8), torch.zeros(8, device="meta"),
            "device: got cpu and meta, expected the same device for all tensors",
        ),
    ],
    ids=["dtype", "wide", "empty", "device"],
)  # fmt: skip
def test_what_cannot_be_computed_is_refused(x: torch.Tensor, weight: torch.Tensor, sentence: str) -> None:
    assert_refused(rms_norm, supports, x, weight, eps=EPS, sentence=sentence)


@pytest.mark.parametrize(
    ("x", "weight", "eps", "words"),
    [
        (torch.zeros(3, 8), torch.zeros(7), EPS, "weight: got shape"),
        (torch.tensor(1.0), torch.tensor(1.0), EPS, "weight: got shape"),
        (torch.zeros(3, 8), torch.zeros(8), 0.0, "eps: got 0.0"),
    ],
)
def test_arguments_that_do_not_fit_are_named(x: torch.Tensor, weight: torch.Tensor, eps: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        rms_norm(x, weight, eps=eps)
