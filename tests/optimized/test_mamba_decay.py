"""The kernels of Mamba's decay gate against the formula in float64, and what they must do exactly."""

import pytest
import torch

from optimized.mamba_decay import mamba_decay, supports
from tests.optimized.bounds import unit_roundoff
from tests.optimized.comparison import compared, differentiated, normal, worst_ratio
from tests.optimized.refusals import assert_refused

SHAPES = [(2, 40, 5), (1, 1, 1), (3, 70, 33), (2, 3, 700), (0, 4, 3), (3, 0, 3), (2, 3, 0)]

FUNCTION_ROUNDINGS = 16
"""Float32 roundings of softplus or a logistic function (9, ``tests/optimized/test_elementary.py``), of the exponential
of ``a_log`` (5) and of the two products."""


def _formula(x: torch.Tensor, a_log: torch.Tensor, dt_bias: torch.Tensor) -> torch.Tensor:
    return -a_log.exp() * torch.logaddexp(x + dt_bias, torch.zeros_like(x))


def _bounds(x: torch.Tensor, a_log: torch.Tensor, dt_bias: torch.Tensor, cotangent: torch.Tensor) -> list[torch.Tensor]:
    """Returns bounds of the output and the three gradients.

    The rounding of ``z = x + dt_bias`` is an absolute error, and so a relative one of ``u32 |z|`` where the functions
    are exponentials of ``z``, less elsewhere. A sum over N tokens adds N roundings of its magnitudes, a stored result
    one of its format.
    """
    u32 = unit_roundoff(torch.float32)
    argument, rate = (x.double() + dt_bias.double()), a_log.double().exp()
    step = torch.logaddexp(argument, torch.zeros_like(argument))
    relative = (argument.abs() + FUNCTION_ROUNDINGS) * u32
    of_x = (cotangent.double() * rate * torch.sigmoid(argument)).abs()
    of_a_log = (cotangent.double() * rate * step).abs()
    tokens = x.shape[0] * x.shape[1]
    sums = [((relative + tokens * u32) * each).sum((0, 1)) for each in (of_a_log, of_x)]
    u_x, u_a_log, u_dt_bias = (unit_roundoff(each.dtype) for each in (x, a_log, dt_bias))
    return [
        relative * rate * step + torch.finfo(torch.float32).tiny,
        (relative + u_x) * of_x + torch.finfo(x.dtype).tiny,
        sums[0] + u_a_log * of_a_log.sum((0, 1)) + torch.finfo(a_log.dtype).tiny,
        sums[1] + u_dt_bias * of_x.sum((0, 1)) + torch.finfo(dt_bias.dtype).tiny,
    ]


def _worst_ratio(x: torch.Tensor, a_log: torch.Tensor, dt_bias: torch.Tensor) -> float:
    cotangent = normal(*x.shape, seed=3)
    pairs = compared(mamba_decay, _formula, [x, a_log, dt_bias], cotangent)
    return worst_ratio(pairs, _bounds(x, a_log, dt_bias, cotangent))


@pytest.mark.parametrize("scale", [1.0, 20.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_results_and_gradients_lie_within_the_roundings_of_the_recipe(
    shape: tuple[int, ...], dtype: torch.dtype, scale: float
) -> None:
    heads = [normal(shape[-1], seed=seed, dtype=dtype) for seed in (1, 2)]
    assert _worst_ratio(normal(*shape, scale=scale, dtype=dtype), *heads) <= 1


@pytest.mark.parametrize("x", [-80.0, -40.0, -17.0, 17.0, 80.0])
def test_the_relative_accuracy_holds_where_softplus_is_tiny_or_its_argument(x: float) -> None:
    assert _worst_ratio(torch.full((1, 1, 1), x), torch.zeros(1), torch.zeros(1)) <= 1


def test_parameters_in_float32_beside_16_bits_keep_their_format() -> None:
    x, heads = normal(2, 9, 5, dtype=torch.bfloat16), [normal(5, seed=seed) for seed in (1, 2)]
    results = differentiated(mamba_decay, [x, *heads], normal(2, 9, 5, seed=3))
    assert [each.dtype for each in results] == [torch.float32, torch.bfloat16, torch.float32, torch.float32]
    assert _worst_ratio(x, *heads) <= 1


def test_strides_change_no_bit() -> None:
    x, heads = normal(2, 30, 12)[..., 3:8], [normal(10, seed=seed)[::2] for seed in (1, 2)]
    cotangent = normal(5, seed=3).expand(2, 30, 5)
    runs = [
        ([x, *heads], cotangent),
        ([each.contiguous() for each in (x, *heads)], cotangent.contiguous()),
        ([x.transpose(0, 1).contiguous().transpose(0, 1), *heads], cotangent),
    ]
    first, *others = [differentiated(mamba_decay, tensors, gradient) for tensors, gradient in runs]
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


def test_without_tokens_the_heads_have_gradients_of_zero() -> None:
    x, heads = torch.zeros(2, 0, 3), [torch.ones(3), torch.ones(3)]
    _, _, *of_heads = differentiated(mamba_decay, [x, *heads], torch.zeros(2, 0, 3))
    assert all(torch.equal(each, torch.zeros(3)) for each in of_heads)


@pytest.mark.parametrize("double", [0, 1, 2])
def test_a_format_without_kernels_is_refused(double: int) -> None:
    tensors = [torch.zeros(1, 2, 3), torch.zeros(3), torch.zeros(3)]
    tensors[double] = tensors[double].double()
    sentence = "dtype: got torch.float64, expected float32, bfloat16 or float16"
    assert_refused(mamba_decay, supports, *tensors, sentence=sentence)


def test_tensors_of_two_devices_are_refused() -> None:
    sentence = "device: got cpu and meta, expected the same device for all tensors"
    tensors = (torch.zeros(1, 2, 3), torch.zeros(3), torch.zeros(3, device="meta"))
    assert_refused(mamba_decay, supports, *tensors, sentence=sentence)


@pytest.mark.parametrize(
    ("x", "a_log", "dt_bias", "words"),
    [
        ((2, 3), (3,), (3,), r"x: got shape \(2, 3\), expected \(B, T, H\)"),
        ((1, 2, 3), (4,), (3,), r"a_log: got shape \(4,\), expected \(3\)"),
        ((1, 2, 3), (3,), (1, 3), r"dt_bias: got shape \(1, 3\), expected \(3\)"),
    ],
)
def test_arguments_that_do_not_fit_are_named(
    x: tuple[int, ...], a_log: tuple[int, ...], dt_bias: tuple[int, ...], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        mamba_decay(torch.zeros(x), torch.zeros(a_log), torch.zeros(dt_bias))
