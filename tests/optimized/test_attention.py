"""The attention kernels against the formula in float64, and what they must do exactly."""

import math

import pytest
import torch

from optimized.attention import attention, supports
from tests.optimized.attention_formula import Case, compare, draw
from tests.optimized.refusals import assert_refused

CASES = {
    "dense": Case(T=70, S=70),
    "causal, three heads per key head": Case(T=70, S=70, H=3, G=1, D=72, V=40, window=(None, 0)),
    "window on both sides, T < S": Case(T=37, S=100, H=1, G=1, window=(9, 4)),
    "window on the left, T > S": Case(T=100, S=37, H=1, G=1, D=16, V=72, window=(20, None)),
    "causal, T > S, rows without keys": Case(T=80, S=37, H=1, G=1, window=(None, 0)),
    "sliding window, full tiles between edges": Case(T=200, S=200, H=1, G=1, D=16, V=16, window=(130, 0)),
    "sinks": Case(T=40, S=70, H=3, G=1, window=(None, 0), with_sinks=True),
    "key mask, one batch entry hidden": Case(B=2, T=37, S=70, H=1, G=1, with_key_mask=True),
    "key mask and sinks in a window": Case(B=2, T=70, S=40, window=(30, 2), with_sinks=True, with_key_mask=True),
    "bias of every pair, hidden pairs": Case(B=2, T=40, S=70, H=2, G=1, window=(None, 0), bias=(2, 2, 40, 70)),
    "bias of the head, shared by the batch": Case(B=2, T=70, S=40, with_sinks=True, bias=(1, 2, 70, 40)),
    "bias of the key, key mask and window": Case(
        B=2, T=70, S=70, H=3, G=1, window=(40, 3), with_key_mask=True, bias=(2, 1, 1, 70)
    ),
    "bias of the query": Case(T=70, S=70, window=(None, 0), bias=(70, 1)),
    "bias of two axes, shared by batch and head": Case(B=2, T=40, S=40, bias=(40, 40)),
    "bias of one number": Case(B=2, T=40, S=70, window=(20, 0), with_sinks=True, bias=()),
    "bias in float32": Case(T=40, S=40, bias=(2, 1, 40), bias_dtype=torch.float32),
    "bias of one query and one key": Case(T=1, S=1, bias=(1, 1)),
    "wide head, value gradients apart": Case(T=40, S=70, H=1, G=1, D=136, V=24, window=(None, 0)),
    "one query": Case(T=1, S=50, window=(None, 0)),
    "one key": Case(T=50, S=1, with_sinks=True),
    "one query, one key": Case(T=1, S=1, D=1, V=1),
    "no keys": Case(T=5, S=0, with_sinks=True, bias=(2, 5, 0)),
    "no queries": Case(T=0, S=5, with_sinks=True),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_results_and_gradients_lie_within_the_roundings_of_the_recipe(case: Case, dtype: torch.dtype) -> None:
    ratios = {result.name: result.worst_ratio() for result in compare(case, draw(case, dtype), scale=case.D**-0.5)}
    assert max(ratios.values()) <= 1, ratios


def test_float16_lies_within_the_roundings_of_the_recipe() -> None:
    case = Case(T=40, S=70, H=3, G=1, window=(None, 0), with_sinks=True)
    ratios = {
        result.name: result.worst_ratio() for result in compare(case, draw(case, torch.float16), scale=case.D**-0.5)
    }
    assert max(ratios.values()) <= 1, ratios


@pytest.mark.parametrize("scale", [-0.3, 0.0, 1.0])
def test_any_scale_is_right(scale: float) -> None:
    case = Case(T=40, S=40, H=1, G=1, D=16, V=16, window=(None, 0))
    ratios = {result.name: result.worst_ratio() for result in compare(case, draw(case, torch.float32), scale=scale)}
    assert max(ratios.values()) <= 1, ratios


def _gradients(
    leaves: list[torch.Tensor], out_gradient: torch.Tensor | None, lse_gradient: torch.Tensor | None, **options: object
) -> tuple[torch.Tensor, ...]:
    inputs = [leaf.detach().requires_grad_() for leaf in leaves]
    out, lse = attention(*inputs, scale=0.2, **options)  # type: ignore[arg-type]  # options of the call
    pairs = [
        (result, gradient) for result, gradient in ((out, out_gradient), (lse, lse_gradient)) if gradient is not None
    ]
    results, cotangents = zip(*pairs, strict=True)
    return (out.detach(), lse.detach(), *torch.autograd.grad(results, inputs, cotangents))


def test_a_row_without_keys_gives_zeros_whatever_its_cotangents_are() -> None:
    tensors = draw(Case(T=40, S=10, H=1, G=1), torch.float32)
    lse_gradient = torch.full_like(tensors.lse_gradient, math.nan)
    out, lse, query_gradient, *_ = _gradients(
        [tensors.query, tensors.key, tensors.value], tensors.out_gradient, lse_gradient, window=(None, 0)
    )
    hidden = slice(0, 30)
    assert torch.all(out[:, hidden] == 0)
    assert torch.all(lse[:, :, hidden] == -math.inf)
    assert torch.all(query_gradient[:, hidden] == 0)


def test_the_logsumexp_of_a_hidden_row_is_its_sink() -> None:
    tensors = draw(Case(T=3, S=5, with_sinks=True, with_key_mask=True), torch.float32)
    assert tensors.sinks is not None
    _, lse = attention(
        tensors.query, tensors.key, tensors.value, scale=1.0, sinks=tensors.sinks, key_mask=tensors.key_mask
    )
    roundings = 4 * torch.finfo(torch.float32).eps * tensors.sinks.abs()
    assert torch.all((lse - tensors.sinks[None, :, None]).abs() <= roundings[None, :, None])


def test_keys_hidden_by_the_mask_have_no_influence_and_no_gradient_even_if_they_are_nan() -> None:
    tensors = draw(Case(B=2, T=40, S=40, H=1, G=1, with_key_mask=True), torch.float32)
    assert tensors.key_mask is not None
    leaves = [tensors.query, tensors.key, tensors.value]
    hidden = ~tensors.key_mask
    poisoned = [tensors.query, *(leaf.masked_fill(hidden[:, :, None, None], math.nan) for leaf in leaves[1:])]
    clean, other = (
        _gradients(inputs, tensors.out_gradient, None, key_mask=tensors.key_mask) for inputs in (leaves, poisoned)
    )
    assert all(torch.equal(a, b) for a, b in zip(clean, other, strict=True))
    assert all(torch.all(gradient[hidden] == 0) for gradient in clean[3:])


def test_a_huge_window_is_the_same_program_as_no_window() -> None:
    tensors = draw(Case(T=40, S=70, H=1, G=1), torch.float32)
    leaves = [tensors.query, tensors.key, tensors.value]
    unbounded, huge = (
        _gradients(leaves, tensors.out_gradient, tensors.lse_gradient, window=window)
        for window in ((None, None), (2**40, 2**40))
    )
    assert all(torch.equal(a, b) for a, b in zip(unbounded, huge, strict=True))


def test_gradients_flow_through_the_logsumexp_alone() -> None:
    tensors = draw(Case(T=40, S=40, H=1, G=1), torch.float32)
    leaves = [tensors.query, tensors.key, tensors.value]
    _, _, *alone = _gradients(leaves, None, tensors.lse_gradient)
    _, _, *beside_zero = _gradients(leaves, torch.zeros_like(tensors.out_gradient), tensors.lse_gradient)
    assert all(torch.equal(a, b) for a, b in zip(alone, beside_zero, strict=True))
    assert torch.all(alone[2] == 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_strides_change_no_bit(dtype: torch.dtype) -> None:
    tensors = draw(Case(B=2, T=20, S=20, H=2, G=2, D=24, V=24), dtype)
    fused = torch.cat([tensors.query, tensors.key, tensors.value], dim=2)
    views = [fused[:, :, :2], fused[:, :, 2:4], fused[:, :, 4:].transpose(1, 3).contiguous().transpose(1, 3)]
    cotangent = tensors.out_gradient[:1, :1].expand(2, 20, 2, 24)
    lse_cotangent = tensors.lse_gradient.transpose(1, 2).contiguous().transpose(1, 2)
    strided = _gradients(views, cotangent, lse_cotangent, window=(None, 0))
    plain = [leaf.contiguous() for leaf in (tensors.query, tensors.key, tensors.value)]
    contiguous = _gradients(plain, cotangent.contiguous(), tensors.lse_gradient, window=(None, 0))
    assert all(torch.equal(a, b) for a, b in zip(strided, contiguous, strict=True))


def test_a_bias_of_other_strides_changes_no_bit() -> None:
    case = Case(B=2, T=40, S=20, H=1, G=1, D=16, V=16, bias=(2, 1, 40, 20))
    tensors = draw(case, torch.float32)
    assert tensors.bias is not None
    results = []
    for bias in (tensors.bias, tensors.bias.mT.contiguous().mT, tensors.bias.repeat(1, 1, 1, 2)[..., :20]):
        leaf = bias.detach().requires_grad_()
        out, _ = attention(tensors.query, tensors.key, tensors.value, scale=0.2, bias=leaf)
        results.append((out, *torch.autograd.grad(out, leaf, tensors.out_gradient)))
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("with_sinks", [False, True], ids=["no sinks", "sinks"])
def test_a_row_whose_keys_the_bias_hides_gives_zeros_whatever_its_cotangents_are(with_sinks: bool) -> None:  # noqa: FBT001  # pytest passes parameters by name
    tensors = draw(Case(T=40, S=40, H=1, G=1, bias=(40, 1), with_sinks=with_sinks), torch.float32)
    bias = torch.where(torch.arange(40) < 30, -math.inf, 0.0)[:, None].requires_grad_()
    query = tensors.query.clone().requires_grad_()
    out, lse = attention(query, tensors.key, tensors.value, scale=0.2, bias=bias, sinks=tensors.sinks)
    of_query, of_bias = torch.autograd.grad([out, lse], [query, bias], [tensors.out_gradient, tensors.lse_gradient])
    assert torch.all(out[:, :30] == 0)
    assert torch.all(lse[..., :30].isinf()) or with_sinks
    assert torch.all(of_query[:, :30] == 0)
    assert torch.all(of_bias[:30] == 0)


def test_gradients_repeat_bit_by_bit() -> None:
    tensors = draw(Case(B=2, T=70, S=70, H=2, G=1, with_sinks=True, bias=(70,)), torch.bfloat16)
    options = {"sinks": tensors.sinks, "bias": tensors.bias, "window": (None, 0)}
    leaves = [tensors.query, tensors.key, tensors.value]
    once, again = (_gradients(leaves, tensors.out_gradient, tensors.lse_gradient, **options) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_a_gradient_alone_is_the_one_beside_the_others(wanted: int) -> None:
    tensors = draw(Case(T=40, S=40), torch.float32)
    leaves = [tensors.query, tensors.key, tensors.value]
    everything = _gradients(leaves, tensors.out_gradient, tensors.lse_gradient)
    inputs = [leaf.detach().requires_grad_(index == wanted) for index, leaf in enumerate(leaves)]
    results = attention(*inputs, scale=0.2)
    (alone,) = torch.autograd.grad([*results], inputs[wanted], [tensors.out_gradient, tensors.lse_gradient])
    assert torch.equal(alone, everything[2 + wanted])


def test_outputs_have_the_format_that_the_package_promises() -> None:
    tensors = draw(Case(T=3, S=3), torch.bfloat16)
    out, lse = attention(tensors.query, tensors.key, tensors.value, scale=1.0)
    assert (out.dtype, lse.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"query": torch.zeros(1, 3, 2, 264), "key": torch.zeros(1, 3, 2, 264)},
            "head width: got 264, expected at most 256",
        ),
        (
            {name: torch.zeros(1, 3, 2, 8).double() for name in ("query", "key", "value")},
            "dtype: got torch.float64, expected float32, bfloat16 or float16",
        ),
        (
            {"value": torch.zeros(1, 3, 2, 8).bfloat16()},
            "dtype: got torch.float32, torch.float32, torch.bfloat16, expected one for query, key and value",
        ),
        (
            {"bias": torch.zeros(1).bfloat16()},
            "bias: got torch.bfloat16, expected torch.float32 as query or torch.float32",
        ),
        (
            {"sinks": torch.zeros(2, device="meta")},
            "device: got cpu and meta, expected the same device for all tensors",
        ),
        (
            {"key_mask": torch.ones(1, 3, dtype=torch.bool, device="meta")},
            "device: got cpu and meta, expected the same device for all tensors",
        ),
    ],
)
def test_what_cannot_be_computed_is_refused_with_the_sentence_of_supports(
    changes: dict[str, torch.Tensor], sentence: str
) -> None:
    arguments = {name: torch.zeros(1, 3, 2, 8) for name in ("query", "key", "value")} | changes
    tensors = [arguments.pop(name) for name in ("query", "key", "value")]
    assert_refused(attention, supports, *tensors, sentence=sentence, scale=1.0, **arguments)


@pytest.mark.parametrize(
    ("shapes", "options", "words"),
    [
        ([(3, 2, 8), (1, 3, 2, 8), (1, 3, 2, 8)], {}, "query: got shape"),
        ([(1, 3, 2, 0)] * 3, {}, "query: got shape"),
        ([(1, 3, 2, 8), (1, 3, 2, 9), (1, 3, 2, 8)], {}, "key: got shape"),
        ([(1, 3, 2, 8), (1, 3, 2, 8), (1, 4, 2, 8)], {}, "value: got shape"),
        ([(1, 3, 3, 8), (1, 3, 2, 8), (1, 3, 2, 8)], {}, "query heads: got 3"),
        ([(1, 3, 2, 8)] * 3, {"window": (-1, 0)}, "window: got"),
        ([(1, 3, 2, 8)] * 3, {"sinks": torch.zeros(3)}, "sinks: got shape"),
        ([(1, 3, 2, 8)] * 3, {"key_mask": torch.ones(1, 4, dtype=torch.bool)}, "key_mask: got shape"),
        ([(1, 3, 2, 8)] * 3, {"bias": torch.zeros(2, 3)}, "bias: got shape"),
    ],
)
def test_arguments_that_do_not_fit_are_named(
    shapes: list[tuple[int, ...]], options: dict[str, object], words: str
) -> None:
    tensors = [torch.zeros(shape) for shape in shapes]
    with pytest.raises(ValueError, match=words):
        attention(*tensors, scale=1.0, **options)  # type: ignore[arg-type]  # wrong on purpose


def test_a_key_mask_that_is_not_boolean_is_a_type_error() -> None:
    tensors = [torch.zeros(1, 3, 2, 8) for _ in range(3)]
    with pytest.raises(TypeError, match=r"key_mask: got dtype torch\.float32"):
        attention(*tensors, scale=1.0, key_mask=torch.ones(1, 3))
