"""The adapter to FlashAttention 4, its kernels replaced by a stand-in on the CPU, against the reference in float64.

Letters: B batch, T query tokens, S key tokens, H query heads, G key/value heads, D query/key head width, V value head
width.
"""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import reference
from optimized.flash4 import attention, kernels, varlen_attention
from optimized.flash4.key_masks import binding_window, pack_visible_keys
from optimized.flash4.widths import kernel_widths, pad_width
from tests.optimized import flash4_stand_in

Window = tuple[int | None, int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One call of ``attention``; ``visible`` has a ``(first, last)`` key of each batch entry, "holes" draws a mask."""

    T: int
    S: int
    H: int = 2
    G: int = 2
    D: int = 16
    V: int = 16
    window: Window = (None, None)
    sinks: tuple[float, ...] | None = None
    visible: str | tuple[tuple[int, int], ...] | None = None


CASES = {
    "all keys": Case(T=5, S=9),
    "a width for both of D and V": Case(T=4, S=4, D=40, V=72),
    "V below D": Case(T=4, S=4, D=160, V=120),
    "V below D, grouped": Case(T=4, S=4, H=4, D=160, V=120),
    "V above D": Case(T=4, S=4, D=104, V=200),
    "a width that the kernels have": Case(T=3, S=4, D=64, V=64),
    "causal, three heads per key head": Case(T=7, S=7, H=6, window=(None, 0)),
    "causal, T < S": Case(T=3, S=8, window=(None, 0)),
    "causal, rows without keys": Case(T=8, S=3, window=(None, 0)),
    "causal, rows without keys, sinks": Case(T=8, S=3, window=(None, 0), sinks=(0.5, -2.0)),
    "window on both sides": Case(T=9, S=12, H=4, window=(3, 2), sinks=(0.5, 1.0, -1.0, 3.0)),
    "window without a right end": Case(T=9, S=9, window=(2, None)),
    "window wider than the keys": Case(T=4, S=6, window=(2**40, 2**40)),
    "sinks far above and far below": Case(T=8, S=3, window=(None, 0), sinks=(400.0, -400.0)),
    "sinks that are none": Case(T=8, S=3, window=(None, 0), sinks=(-math.inf, 1.0)),
    "no keys": Case(T=3, S=0, sinks=(0.5, 1.0)),
    "no queries": Case(T=0, S=3, sinks=(0.5, 1.0)),
    "no queries, mask": Case(T=0, S=3, sinks=(0.5, 1.0), visible=((0, 1), (1, 2))),
    "no keys, mask": Case(T=3, S=0, window=(None, 0), sinks=(0.5, 1.0), visible="holes"),
    "mask with holes": Case(T=5, S=9, H=4, D=24, V=40, visible="holes", sinks=(0.5, 1.0, -1.0, 3.0)),
    "mask that hides all of an entry": Case(T=5, S=6, visible=((3, 2), (0, 5))),
    "mask that hides all of an entry, sinks": Case(T=5, S=6, visible=((3, 2), (0, 5)), sinks=(0.5, 1.0)),
    "mask with holes, one causal query": Case(T=1, S=9, window=(None, 0), visible="holes"),
    "left padding in a window": Case(T=6, S=8, H=4, window=(2, 1), visible=((2, 7), (5, 7))),
    "left padding, causal, T > S": Case(T=8, S=6, window=(None, 0), visible=((2, 5), (0, 5)), sinks=(0.5, 1.0)),
    "right padding, causal": Case(T=7, S=7, H=4, window=(None, 0), visible=((0, 3), (0, 6))),
    "right padding, causal, T < S": Case(T=3, S=8, window=(None, 0), visible=((0, 3), (0, 6)), sinks=(0.5, 1.0)),
    "padding on both sides, causal, T > S": Case(
        T=9, S=6, window=(None, 0), visible=((2, 3), (3, 2)), sinks=(0.5, 1.0)
    ),
    "no mask is hidden, causal": Case(T=6, S=6, window=(None, 0), visible=((0, 5), (0, 5))),
}


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    flash4_stand_in.install(monkeypatch)


def _key_mask(case: Case) -> Tensor | None:
    if case.visible is None:
        return None
    if isinstance(case.visible, str):
        return torch.rand(2, case.S, generator=torch.Generator().manual_seed(1)) > 0.4
    ends = torch.tensor(case.visible)
    places = torch.arange(case.S)
    return (places >= ends[:, :1]) & (places <= ends[:, 1:])


def _draw(case: Case) -> tuple[list[Tensor], list[Tensor]]:
    """Returns query, key, value and, if there are any, sinks, and the cotangents of out and lse."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tensors = [normal(2, case.T, case.H, case.D), normal(2, case.S, case.G, case.D), normal(2, case.S, case.G, case.V)]
    if case.sinks is not None:
        tensors.append(torch.tensor(case.sinks, dtype=torch.float64))
    return tensors, [normal(2, case.T, case.H, case.V), normal(2, case.H, case.T)]


def _results(function: Any, tensors: Sequence[Tensor], cotangents: Sequence[Tensor], *more: Any, **options: Any) -> Any:
    """Returns out, lse and the gradients of all tensors; the fourth is the sinks."""
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    sinks = leaves[3] if len(leaves) > 3 else None
    results = function(*leaves[:3], *more, sinks=sinks, **options)
    gradients = torch.autograd.grad(tuple(results), leaves, list(cotangents), allow_unused=True, materialize_grads=True)
    return [*(result.detach() for result in results), *gradients]


def _float64_bound(case: Case, expected: Tensor) -> float:
    """Returns the largest legal difference of two float64 evaluations of one call.

    Every number is the end of a chain of sums over channels, keys, queries and grouped heads, of terms that are at most
    as large as the largest result or the largest of some 1e3 normal numbers, 4; each term brings two roundings.
    """
    terms = case.D + case.V + case.S + case.T + case.H
    finite = expected[expected.isfinite()]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    return 2 * terms * torch.finfo(torch.float64).eps * max(largest, 4.0)


def _worst(actual: Tensor, expected: Tensor) -> float:
    """Returns the largest difference, 0 between equal infinities and infinity beside a NaN."""
    if not expected.numel():
        return 0.0
    difference = torch.where(actual == expected, 0.0, (actual - expected).abs())
    return float(difference.nan_to_num(nan=math.inf).max())


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_results_and_gradients_are_those_of_the_reference(case: Case) -> None:
    options = {"scale": 0.3, "window": case.window, "key_mask": _key_mask(case)}
    tensors, cotangents = _draw(case)
    actual = _results(attention, tensors, cotangents, **options)
    expected = _results(reference.attention, tensors, cotangents, **options)
    excess = [_worst(mine, right) / _float64_bound(case, right) for mine, right in zip(actual, expected, strict=True)]
    assert max(excess) <= 1, excess


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("visible", ["holes", ((0, 3), (2, 5))])
def test_gradients_of_hidden_keys_are_exactly_zero(visible: Any) -> None:
    case = Case(T=5, S=6, visible=visible)
    key_mask = _key_mask(case)
    assert key_mask is not None
    tensors, cotangents = _draw(case)
    *_, of_key, of_value = _results(attention, tensors, cotangents, scale=0.3, key_mask=key_mask)
    assert torch.all(of_key[~key_mask] == 0)
    assert torch.all(of_value[~key_mask] == 0)


@pytest.mark.usefixtures("stand_in")
def test_hidden_keys_have_no_influence_even_if_they_are_not_numbers() -> None:
    case = Case(T=5, S=6, visible="holes")
    key_mask = _key_mask(case)
    assert key_mask is not None
    tensors, cotangents = _draw(case)
    spoilt = [tensors[0], *(tensor.masked_fill(~key_mask[..., None, None], math.nan) for tensor in tensors[1:3])]
    results = [_results(attention, each, cotangents, scale=0.3, key_mask=key_mask) for each in (tensors, spoilt)]
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("with_sinks", [False, True])
@pytest.mark.parametrize("window", [(None, None), (None, 0), (2, 1)])
@pytest.mark.parametrize("offsets_dtype", [torch.int32, torch.int64])
def test_packed_sequences_are_those_of_the_reference(
    window: Window, offsets_dtype: torch.dtype, *, with_sinks: bool
) -> None:
    case = Case(T=9, S=13, H=4, D=40, V=24, sinks=(0.5, 1.0, -1.0, 3.0) if with_sinks else None)
    tensors, cotangents = _draw(case)
    tensors = [tensors[0][0], tensors[1][0], tensors[2][0], *tensors[3:]]
    cotangents = [cotangents[0][0], cotangents[1][0]]
    offsets = [torch.tensor(starts, dtype=offsets_dtype) for starts in ((0, 4, 4, 6, 9), (0, 3, 8, 8, 13))]
    options = {"scale": 0.3, "window": window}
    actual = _results(varlen_attention, tensors, cotangents, *offsets, **options)
    expected = _results(reference.varlen_attention, tensors, cotangents, *offsets, **options)
    excess = [_worst(mine, right) / _float64_bound(case, right) for mine, right in zip(actual, expected, strict=True)]
    assert max(excess) <= 1, excess


@pytest.mark.usefixtures("stand_in")
def test_gradients_repeat_where_torch_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def dense(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        seen.append(options["deterministic"])
        return flash4_stand_in.flash_attn_func(q, k, v, **options)

    functions = kernels.Kernels(dense=dense, packed=flash4_stand_in.flash_attn_varlen_func)
    monkeypatch.setattr(kernels, "load_kernels", lambda: functions)
    query = torch.zeros(1, 2, 1, 64, dtype=torch.float64)
    for is_deterministic in (False, True):
        monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda answer=is_deterministic: answer)
        attention(query, query, query, scale=1.0)
    assert seen == [False, True]


def test_a_width_that_the_kernels_have_is_not_copied() -> None:
    tensor = torch.zeros(2, 64)
    assert pad_width(tensor, 64) is tensor


@pytest.mark.parametrize("is_grouped", [False, True])
def test_the_widths_whose_query_gradients_are_wrong_on_hopper_are_never_asked_for(*, is_grouped: bool) -> None:
    pairs = {
        kernel_widths(width, value_width, arch="sm_90", is_grouped=is_grouped)
        for width in range(1, 257)
        for value_width in (1, width, 256)
    }
    assert pairs <= flash4_stand_in.HOPPER_WIDTHS


def test_a_bound_that_hides_nothing_is_none() -> None:
    assert binding_window((4, 2), queries=3, keys=5) == (None, None)
    assert binding_window((3, 1), queries=3, keys=5) == (3, 1)


def test_visible_keys_are_packed_in_order() -> None:
    key_mask = torch.tensor([[True, False, True], [False, False, True]])
    key = torch.arange(1.0, 7.0).reshape(2, 3, 1, 1)
    visible = pack_visible_keys(key, -key, key_mask)
    assert visible.key.flatten().tolist() == [1, 3, 6, 0, 0, 0]
    assert visible.value.flatten().tolist() == [-1, -3, -6, 0, 0, 0]
    assert visible.offsets.tolist() == [0, 2, 3]


def test_the_real_functions_take_the_arguments_that_the_stand_in_takes() -> None:
    cute = pytest.importorskip("flash_attn.cute", reason="FlashAttention 4 is not installed")
    pairs = (
        (cute.flash_attn_func, flash4_stand_in.flash_attn_func),
        (cute.flash_attn_varlen_func, flash4_stand_in.flash_attn_varlen_func),
    )
    missing = [
        set(inspect.signature(ours).parameters) - set(inspect.signature(real).parameters) for real, ours in pairs
    ]
    assert missing == [set(), set()]
