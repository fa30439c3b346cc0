"""The rotary embedding's kernels against the formula in float64, and what they must do exactly."""

from collections.abc import Callable

import pytest
import torch

from optimized.rope import rope, rope_partial, supports
from tests.optimized.bounds import unit_roundoff
from tests.optimized.comparison import compared, differentiated, normal, worst_ratio
from tests.optimized.refusals import assert_refused

STYLES = ["half", "interleaved"]

SHAPES = [
    (2, 17, 4, 8),
    (1, 1, 1, 2),
    (2, 3, 4, 40),
    (1, 17, 2, 72),
    (1, 2, 1, 300),
    (0, 3, 2, 8),
    (2, 0, 2, 8),
    (2, 3, 0, 8),
]


def _rotated(x: torch.Tensor, style: str) -> torch.Tensor:
    """Returns each pair (a, b) of channels as (-b, a)."""
    if style == "half":
        first, second = x.chunk(2, -1)
        return torch.cat((-second, first), -1)
    return torch.stack((-x[..., 1::2], x[..., 0::2]), -1).flatten(-2)


def _formula(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, style: str) -> torch.Tensor:
    width = cos.shape[-1]
    turned, passed = x[..., :width], x[..., width:]
    return torch.cat((turned * cos[:, :, None] + _rotated(turned, style) * sin[:, :, None], passed), -1)


def _bounds(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, cotangent: torch.Tensor, *, style: str
) -> list[torch.Tensor]:
    """Returns bounds of the output and of the three gradients.

    Every result is a sum of products in float32, of two or of one a head, rounded to its format: the bound is the
    number of roundings times the sum of the magnitudes, which is the formula of the magnitudes without its minus.
    """
    leaves = [tensor.double().abs().requires_grad_() for tensor in (x, cos, sin)]
    width = cos.shape[-1]
    turned, passed = leaves[0][..., :width], leaves[0][..., width:]
    partner = _rotated(turned, style) * _rotated(torch.ones_like(turned), style)
    sums = turned * leaves[1][:, :, None] + partner * leaves[2][:, :, None]
    out = torch.cat((sums, passed), -1)
    magnitudes = (out.detach(), *torch.autograd.grad(out, leaves, cotangent.double().abs()))
    u32, heads = unit_roundoff(torch.float32), x.shape[2]
    return [
        (count * u32 + unit_roundoff(dtype)) * magnitude + torch.finfo(dtype).tiny
        for count, dtype, magnitude in zip(
            (2, 2, heads + 1, heads + 1), (x.dtype, x.dtype, cos.dtype, sin.dtype), magnitudes, strict=True
        )
    ]


def _worst_ratio(
    operation: Callable[..., torch.Tensor], x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, style: str
) -> float:
    cotangent = normal(*x.shape, seed=3, dtype=x.dtype)
    pairs = compared(operation, _formula, [x, cos, sin], cotangent, style=style)
    return worst_ratio(pairs, _bounds(x, cos, sin, cotangent, style=style))


def _tables(x: torch.Tensor, width: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Returns a cosine and a sine table of unrelated numbers, so that no two entries can be mistaken for each other."""
    return [normal(*x.shape[:2], width, seed=seed, dtype=dtype) for seed in (1, 2)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_results_and_gradients_lie_within_the_roundings_of_the_recipe(
    shape: tuple[int, ...], style: str, dtype: torch.dtype
) -> None:
    x = normal(*shape, dtype=dtype)
    assert _worst_ratio(rope, x, *_tables(x, shape[-1], dtype), style=style) <= 1


@pytest.mark.parametrize("style", STYLES)
def test_tables_may_have_more_bits_than_x(style: str) -> None:
    x = normal(2, 5, 3, 16, dtype=torch.bfloat16)
    assert _worst_ratio(rope, x, *_tables(x, 16, torch.float32), style=style) <= 1


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("width", "turned"), [(40, 12), (300, 20), (24, 24), (8, 2), (7, 6), (8, 0)])
def test_channels_beyond_the_tables_pass_through(width: int, turned: int, style: str) -> None:
    x = normal(1, 3, 2, width, dtype=torch.bfloat16)
    tables = _tables(x, turned)
    assert _worst_ratio(rope_partial, x, *tables, style=style) <= 1
    cotangent = normal(*x.shape, seed=3, dtype=x.dtype)
    out, of_x, *_ = differentiated(rope_partial, [x, *tables], cotangent, style=style)
    assert torch.equal(out[..., turned:], x[..., turned:])
    assert torch.equal(of_x[..., turned:], cotangent[..., turned:])


@pytest.mark.parametrize("style", STYLES)
def test_strides_change_no_bit(style: str) -> None:
    x = normal(2, 6, 9, 40)[:, :, 2:7]
    cos, sin = (table[:, :1].expand(2, 6, 40) for table in _tables(x, 40))
    cotangent = normal(40, seed=3).expand(2, 6, 5, 40)
    runs = [
        ([x, cos, sin], cotangent),
        ([each.contiguous() for each in (x, cos, sin)], cotangent.contiguous()),
        ([x.transpose(1, 2).contiguous().transpose(1, 2), cos.mT.contiguous().mT, sin], cotangent),
        ([x.mT.contiguous().mT, cos, sin], cotangent),
    ]
    first, *others = [differentiated(rope, tensors, gradient, style=style) for tensors, gradient in runs]
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("style", STYLES)
def test_the_gradient_of_x_is_the_same_without_those_of_the_tables(style: str) -> None:
    x = normal(2, 5, 4, 16)
    cos, sin = _tables(x, 16)
    cotangent = normal(*x.shape, seed=3)
    alone = differentiated(lambda each: rope(each, cos, sin, style=style), [x], cotangent)
    assert torch.equal(alone[1], differentiated(rope, [x, cos, sin], cotangent, style=style)[1])


def test_one_table_alone_gets_its_gradient() -> None:
    x = normal(2, 5, 4, 16)
    cos, sin = _tables(x, 16)
    cotangent = normal(*x.shape, seed=3)
    alone = differentiated(lambda each: rope(x, cos, each, style="half"), [sin], cotangent)
    assert torch.equal(alone[1], differentiated(rope, [x, cos, sin], cotangent, style="half")[3])


def test_without_gradients_of_the_tables_x_is_not_kept() -> None:
    x, (cos, sin) = normal(2, 5, 4, 16).requires_grad_(), _tables(normal(2, 5, 4, 16), 16)
    out = rope(x, cos, sin, style="half")
    assert out.grad_fn is not None
    kept = out.grad_fn.saved_tensors  # type: ignore[attr-defined]  # of the autograd function
    assert kept[0] is None


@pytest.mark.parametrize("double", [0, 1, 2])
@pytest.mark.parametrize("operation", [rope, rope_partial])
def test_a_format_without_kernels_is_refused(operation: Callable[..., torch.Tensor], double: int) -> None:
    tensors = [torch.zeros(1, 2, 3, 8), torch.zeros(1, 2, 8), torch.zeros(1, 2, 8)]
    tensors[double] = tensors[double].double()
    sentence = "dtype: got torch.float64, expected float32, bfloat16 or float16"
    assert_refused(operation, supports, *tensors, sentence=sentence, style="half")


@pytest.mark.parametrize("operation", [rope, rope_partial])
def test_tensors_of_two_devices_are_refused(operation: Callable[..., torch.Tensor]) -> None:
    table = torch.zeros(1, 2, 8, device="meta")
    sentence = "device: got cpu and meta, expected the same device for all tensors"
    assert_refused(operation, supports, torch.zeros(1, 2, 3, 8), table, table, sentence=sentence, style="half")


@pytest.mark.parametrize(
    ("operation", "x_shape", "cos_shape", "sin_shape", "style", "words"),
    [
        (rope, (2, 3, 8), (2, 3, 8), (2, 3, 8), "half", r"x: got shape \(2, 3, 8\), expected \(B, T, H, R\)"),
        (rope, (2, 3, 1, 7), (2, 3, 7), (2, 3, 7), "half", "rotated channels: got 7, expected a multiple of 2"),
        (rope, (2, 3, 1, 8), (2, 3, 4), (2, 3, 4), "half", r"cos: got shape \(2, 3, 4\), expected \(2, 3, 8\)"),
        (rope, (2, 3, 1, 8), (2, 3, 8), (1, 3, 8), "half", r"sin: got shape \(1, 3, 8\), expected \(2, 3, 8\)"),
        (rope, (2, 3, 1, 8), (2, 3, 8), (2, 3, 8), "both", "style: got 'both'"),
        (rope_partial, (2, 3, 8), (2, 3, 8), (2, 3, 8), "half", r"x: got shape \(2, 3, 8\)"),
        (rope_partial, (2, 3, 1, 8), (2, 3, 10), (2, 3, 10), "half", r"cos: got shape .*, expected .* R at most 8"),
        (rope_partial, (2, 3, 1, 8), (3, 8), (3, 8), "half", r"cos: got shape \(3, 8\), expected \(B, T, R\)"),
        (rope_partial, (2, 3, 1, 8), (2, 3, 3), (2, 3, 3), "half", "rotated channels: got 3"),
        (rope_partial, (2, 3, 1, 8), (2, 3, 4), (2, 3, 2), "half", r"sin: got shape \(2, 3, 2\)"),
    ],
)
def test_arguments_that_do_not_fit_are_named(
    operation: Callable[..., torch.Tensor],
    x_shape: tuple[int, ...],
    cos_shape: tuple[int, ...],
    sin_shape: tuple[int, ...],
    style: str,
    words: str,
) -> None:
    with pytest.raises(ValueError, match=words):
        operation(torch.zeros(x_shape), torch.zeros(cos_shape), torch.zeros(sin_shape), style=style)
