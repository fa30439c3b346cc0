"""The SiLU gate's kernels against the formula in float64, and what they must do exactly."""

import pytest
import torch

from optimized.silu_mul import silu_mul, supports
from tests.optimized.bounds import unit_roundoff
from tests.optimized.comparison import compared, differentiated, normal, worst_ratio
from tests.optimized.refusals import assert_refused

SHAPES = [(5, 40), (2, 7, 3, 72), (1, 1), (3, 700), (), (7,), (0, 8), (4, 0), (2, 3, 2, 2, 24)]

SIGMOID_ROUNDINGS = 9
"""Float32 roundings of a logistic function or of 1 less it (``tests/optimized/test_elementary.py``)."""


def _formula(gate: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return gate * torch.sigmoid(gate) * x


def _bounds(
    gate: torch.Tensor, x: torch.Tensor, cotangent: torch.Tensor, *, dtypes: tuple[torch.dtype, torch.dtype]
) -> list[torch.Tensor]:
    """Returns bounds of the output and both gradients, of float64 arguments.

    A product adds one float32 rounding, a stored result one of its format. The two terms of the slope may cancel: the
    bound uses the sum of their magnitudes.
    """
    u32, (u_gate, u) = unit_roundoff(torch.float32), map(unit_roundoff, dtypes)
    sigmoid, rest = torch.sigmoid(gate), torch.sigmoid(-gate)
    silu = (gate * sigmoid).abs()
    slope = sigmoid + gate.abs() * rest * sigmoid
    tiny_gate, tiny = (torch.finfo(dtype).tiny for dtype in dtypes)
    return [
        ((SIGMOID_ROUNDINGS + 2) * u32 + u) * silu * x.abs() + tiny,
        ((2 * SIGMOID_ROUNDINGS + 6) * u32 + u_gate) * (cotangent * x).abs() * slope + tiny_gate,
        ((SIGMOID_ROUNDINGS + 2) * u32 + u) * silu * cotangent.abs() + tiny,
    ]


def _worst_ratio(gate: torch.Tensor, x: torch.Tensor) -> float:
    cotangent = normal(*x.shape, seed=2, dtype=x.dtype)
    pairs = compared(silu_mul, _formula, [gate, x], cotangent)
    bounds = _bounds(gate.double(), x.double(), cotangent.double(), dtypes=(gate.dtype, x.dtype))
    return worst_ratio(pairs, bounds)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_results_and_gradients_lie_within_the_roundings_of_the_recipe(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    gate = normal(*shape, scale=4, dtype=dtype)
    assert _worst_ratio(gate, normal(*shape, seed=1, dtype=dtype)) <= 1


def test_halves_of_a_fused_projection_are_read_in_place() -> None:
    gate, x = normal(2, 3, 1400).chunk(2, -1)
    assert _worst_ratio(gate, x) <= 1


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)], ids=str)
def test_results_take_the_format_of_x_and_gradients_that_of_their_argument(
    dtypes: tuple[torch.dtype, torch.dtype],
) -> None:
    gate, x = (normal(5, 40, seed=seed, dtype=dtype) for seed, dtype in enumerate(dtypes))
    results = differentiated(silu_mul, [gate, x], normal(5, 40, seed=2, dtype=x.dtype))
    assert [result.dtype for result in results] == [x.dtype, *dtypes]
    assert _worst_ratio(gate, x) <= 1


def test_no_finite_gate_gives_a_nan() -> None:
    largest = torch.finfo(torch.float32).max
    gate = torch.tensor([-largest, -1e4, -104.0, -88.0, 0.0, 88.0, 1e4, largest])
    out, of_gate, of_x = differentiated(silu_mul, [gate, torch.ones(8)], torch.ones(8))
    assert torch.equal(out, of_x)
    assert torch.equal(out[[0, 1, 4, 5, 6, 7]], torch.tensor([-0.0, -0.0, 0.0, 88.0, 1e4, largest]))
    assert torch.equal(of_gate[[0, 1, 4, 5, 6, 7]], torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0, 1.0]))


def test_a_gate_far_below_zero_keeps_its_relative_accuracy() -> None:
    assert _worst_ratio(torch.linspace(-87, -20, 500), normal(500)) <= 1


@pytest.mark.parametrize("width", [24, 600])
def test_strides_change_no_bit(width: int) -> None:
    gate, x = normal(2, 2, 5, width)[:, :, 1:4], normal(2, 2, 3, width, seed=1)
    cotangent = normal(width, seed=2).expand(2, 2, 3, width)
    turned = gate.transpose(1, 3).contiguous().transpose(1, 3)
    runs = [(gate, cotangent), (gate.contiguous(), cotangent.contiguous()), (turned, cotangent)]
    first, *others = [differentiated(silu_mul, [each, x], gradient) for each, gradient in runs]
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("double", [0, 1])
def test_a_format_without_kernels_is_refused(double: int) -> None:
    tensors = [torch.zeros(3, 8, dtype=torch.float64 if double == index else torch.float32) for index in range(2)]
    sentence = "dtype: got torch.float64, expected float32, bfloat16 or float16"
    assert_refused(silu_mul, supports, *tensors, sentence=sentence)


def test_tensors_of_two_devices_are_refused() -> None:
    sentence = "device: got cpu and meta, expected the same device for all tensors"
    assert_refused(silu_mul, supports, torch.zeros(3, 8), torch.zeros(3, 8, device="meta"), sentence=sentence)


def test_shapes_that_differ_are_named() -> None:
    with pytest.raises(ValueError, match=r"x: got shape \(8,\), expected the shape of gate, \(3, 8\)"):
        silu_mul(torch.zeros(3, 8), torch.zeros(8))
