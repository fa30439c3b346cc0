"""Packed attention against the dense kernels, which ``test_attention`` holds to the formula.

A sequence meets the same tiles in the same order, packed or alone: all but the sums over sequences agree bit by bit.
"""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch

from optimized.attention import attention
from optimized.varlen_attention import supports, varlen_attention
from tests.optimized.bounds import unit_roundoff
from tests.optimized.refusals import assert_refused

Lengths = tuple[int, ...]
Window = tuple[int | None, int | None]

CASES: dict[str, tuple[Lengths, Lengths, Window]] = {
    "causal, empty sequences on either side": ((3, 0, 70, 5, 0), (3, 4, 80, 0, 0), (None, 0)),
    "one sequence": ((70,), (70,), (None, 0)),
    "sliding window, shorter and longer than the sequences": ((150, 20), (150, 20), (40, 0)),
    "no window, T > S and T < S": ((70, 5), (13, 90), (None, None)),
    "window on both sides": ((33, 65, 1), (40, 65, 70), (9, 4)),
    "no keys at all": ((5, 3), (0, 0), (None, None)),
    "no queries at all": ((0, 0), (5, 3), (None, None)),
    "no tokens": ((0,), (0,), (None, None)),
}


def _offsets(lengths: Lengths, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(dtype)


def _draw(queries: int, keys: int, dtype: torch.dtype, *, D: int = 24, V: int = 40) -> list[torch.Tensor]:
    """Returns query, key, value, sinks and the cotangents of out and lse, of four query and two key heads."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(queries, 4, D), (keys, 2, D), (keys, 2, V), (4,), (queries, 4, V), (4, queries)]
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    return [*(tensor.to(dtype) for tensor in tensors[:3]), tensors[3], tensors[4].to(dtype), tensors[5]]


def _results(
    tensors: list[torch.Tensor], cu_seqlens: tuple[torch.Tensor, torch.Tensor], window: Window
) -> list[torch.Tensor]:
    """Returns out, lse and the gradients of query, key, value and sinks of the packed call."""
    *inputs, sinks, out_gradient, lse_gradient = tensors
    leaves = [leaf.detach().requires_grad_() for leaf in (*inputs, sinks)]
    options: dict[str, Any] = {"scale": 0.2, "window": window, "sinks": leaves[3]}
    out, lse = varlen_attention(leaves[0], leaves[1], leaves[2], *cu_seqlens, **options)
    return [out.detach(), lse.detach(), *torch.autograd.grad([out, lse], leaves, [out_gradient, lse_gradient])]


def _one_by_one(
    tensors: list[torch.Tensor], cu_seqlens: tuple[torch.Tensor, torch.Tensor], window: Window
) -> list[torch.Tensor]:
    """Returns the same from a dense call per sequence."""
    query, key, value, sinks, out_gradient, lse_gradient = tensors
    results = [torch.empty_like(out_gradient), torch.empty_like(lse_gradient)]
    results += [torch.empty_like(tensor) for tensor in (query, key, value)] + [torch.zeros_like(sinks)]
    for (q0, q1), (k0, k1) in zip(*(pairwise(offsets.tolist()) for offsets in cu_seqlens), strict=True):
        sliced = (query[None, q0:q1], key[None, k0:k1], value[None, k0:k1], sinks)
        leaves = [leaf.detach().requires_grad_() for leaf in sliced]
        out, lse = attention(*leaves[:3], scale=0.2, window=window, sinks=leaves[3])
        cotangents = [out_gradient[None, q0:q1], lse_gradient[None, :, q0:q1]]
        gradients = torch.autograd.grad([out, lse], leaves, cotangents)
        results[0][q0:q1], results[1][:, q0:q1] = out.detach()[0], lse.detach()[0]
        results[2][q0:q1], results[3][k0:k1], results[4][k0:k1] = (gradient[0] for gradient in gradients[:3])
        results[5] += gradients[3]
    return results


def _order_of_the_sink_sum(tensors: list[torch.Tensor], results: list[torch.Tensor]) -> torch.Tensor:
    """Returns how far two float32 sums of the rows' terms of the sink's gradient may lie apart, in any two orders.

    A sum of n terms is off by at most ``n u32`` times the sum of their magnitudes.
    """
    _, _, _, sinks, out_gradient, lse_gradient = (tensor.double() for tensor in tensors)
    out, lse = results[0].double(), results[1].double()
    delta = (out * out_gradient).sum(-1).T - lse_gradient
    terms = ((sinks[:, None] - lse).exp() * delta).abs().sum(-1)
    return 2 * (lse.shape[1] + 1) * unit_roundoff(torch.float32) * terms


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("query_lengths", "key_lengths", "window"), CASES.values(), ids=CASES.keys())
def test_every_sequence_is_an_attention_of_its_own(
    query_lengths: Lengths, key_lengths: Lengths, window: Window, dtype: torch.dtype
) -> None:
    tensors = _draw(sum(query_lengths), sum(key_lengths), dtype)
    cu_seqlens = (_offsets(query_lengths), _offsets(key_lengths))
    packed, alone = (compute(tensors, cu_seqlens, window) for compute in (_results, _one_by_one))
    assert all(torch.equal(a, b) for a, b in zip(packed[:5], alone[:5], strict=True))
    assert torch.all((packed[5] - alone[5]).abs() <= _order_of_the_sink_sum(tensors, packed))


def test_a_wide_head_is_packed_alike() -> None:
    tensors = _draw(50, 60, torch.float32, D=200, V=72)
    cu_seqlens = (_offsets((20, 30)), _offsets((50, 10)))
    packed, alone = (compute(tensors, cu_seqlens, (None, 0)) for compute in (_results, _one_by_one))
    assert all(torch.equal(a, b) for a, b in zip(packed[:5], alone[:5], strict=True))


def test_queries_without_keys_give_zeros_whatever_their_cotangents_are() -> None:
    query, key, value, _, out_gradient, lse_gradient = _draw(8, 4, torch.float32)
    leaf = query.requires_grad_()
    out, lse = varlen_attention(leaf, key, value, _offsets((5, 3)), _offsets((0, 4)), scale=1.0)
    (gradient,) = torch.autograd.grad([out, lse], leaf, [out_gradient, lse_gradient])
    assert torch.all(out[:5] == 0)
    assert torch.all(lse[:, :5] == -math.inf)
    assert torch.all(gradient[:5] == 0)


# The interpreter computes with numpy, which warns of the maximum of the poisoned rows.
@pytest.mark.filterwarnings("ignore:All-NaN slice encountered:RuntimeWarning")
def test_another_sequence_has_no_influence_even_if_it_is_nan() -> None:
    tensors = _draw(100, 100, torch.float32)
    cu_seqlens = (_offsets((40, 60)), _offsets((40, 60)))
    poisoned = [tensor.clone() for tensor in tensors]
    for tensor in poisoned[:3]:
        tensor[40:] = math.nan
    clean, other = (_results(each, cu_seqlens, (None, 0)) for each in (tensors, poisoned))
    assert torch.equal(clean[1][:, :40], other[1][:, :40])
    assert all(torch.equal(clean[index][:40], other[index][:40]) for index in (0, 2, 3, 4))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=["int32", "int64"])
def test_strides_and_the_format_of_the_offsets_change_no_bit(dtype: torch.dtype) -> None:
    tensors = _draw(30, 30, torch.bfloat16, D=24, V=24)
    lengths = (10, 20)
    fused = torch.cat(tensors[:3], dim=1)
    views = [fused[:, :4], fused[:, 4:6], fused[:, 6:].transpose(0, 2).contiguous().transpose(0, 2)]
    strided = _results([*views, *tensors[3:]], (_offsets(lengths, dtype), _offsets(lengths, dtype)), (7, 0))
    contiguous = _results(tensors, (_offsets(lengths), _offsets(lengths)), (7, 0))
    assert all(torch.equal(a, b) for a, b in zip(strided, contiguous, strict=True))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"query": torch.zeros(3, 2, 264), "key": torch.zeros(3, 2, 264)},
            "head width: got 264, expected at most 256",
        ),
        (
            {name: torch.zeros(3, 2, 8).double() for name in ("query", "key", "value")},
            "dtype: got torch.float64, expected float32, bfloat16 or float16",
        ),
        (
            {"key": torch.zeros(3, 2, 8).half()},
            "dtype: got torch.float32, torch.float16, torch.float32, expected one for query, key and value",
        ),
        (
            {"sinks": torch.zeros(2, device="meta")},
            "device: got cpu and meta, expected the same device for all tensors",
        ),
    ],
)
def test_what_cannot_be_computed_is_refused_with_the_sentence_of_supports(
    changes: dict[str, torch.Tensor], sentence: str
) -> None:
    arguments = {name: torch.zeros(3, 2, 8) for name in ("query", "key", "value")} | changes
    tensors = [arguments.pop(name) for name in ("query", "key", "value")]
    offsets = _offsets((1, 2))
    assert_refused(varlen_attention, supports, *tensors, offsets, offsets, sentence=sentence, scale=1.0, **arguments)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"query": torch.zeros(1, 3, 2, 8)}, ValueError, "query: got shape"),
        ({"query": torch.zeros(3, 3, 8)}, ValueError, "query: got 3 heads"),
        ({"key": torch.zeros(3, 2, 9)}, ValueError, "key: got shape"),
        ({"value": torch.zeros(4, 2, 8)}, ValueError, "value: got shape"),
        ({"cu_seqlens_q": torch.tensor([0, 2])}, ValueError, r"cu_seqlens_q: got \[0, 2\]"),
        ({"cu_seqlens_k": torch.tensor([0, 1, 3])}, ValueError, "cu_seqlens_k: got 3 offsets"),
        ({"cu_seqlens_k": torch.tensor([0.0, 3.0])}, TypeError, r"cu_seqlens_k: got torch\.float32"),
        ({"window": (0, -1)}, ValueError, "window: got"),
        ({"sinks": torch.zeros(3)}, ValueError, "sinks: got shape"),
    ],
)
def test_arguments_that_do_not_fit_are_named(changes: dict[str, object], error: type[Exception], words: str) -> None:
    arguments: dict[str, object] = {name: torch.zeros(3, 2, 8) for name in ("query", "key", "value")}
    arguments |= {"cu_seqlens_q": _offsets((3,)), "cu_seqlens_k": _offsets((3,))} | changes
    tensors = [arguments.pop(name) for name in ("query", "key", "value", "cu_seqlens_q", "cu_seqlens_k")]
    with pytest.raises(error, match=words):
        varlen_attention(*tensors, scale=1.0, **arguments)  # type: ignore[arg-type]  # wrong on purpose
