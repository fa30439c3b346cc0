"""torch's attention with sinks against the reference, in float64, results and gradients."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import reference
from optimized.sink_attention import sink_attention
from tests.reference.agree import assert_agree, assert_refused, gradients
from tests.reference.draws import normal

LARGEST = 8.0
"""Bound of the magnitudes below: normal values, products over 3 channels, sums over up to 6 keys and queries."""

OPERATIONS = 64
"""Roundings on the longest path: sums over channels, keys and queries of at most 6 terms, forward and back."""


def _inputs(T: int, S: int) -> list[Tensor]:
    return [
        normal(2, T, 4, 3, seed=0), normal(2, S, 2, 3, seed=1), normal(2, S, 2, 5, seed=2),
        normal(4, seed=3), normal(1, 4, T, S, seed=4),
    ]  # fmt: skip


def _masks(S: int) -> st.SearchStrategy[Tensor | None]:
    rows = st.lists(st.booleans(), min_size=S, max_size=S)
    return st.one_of(st.none(), st.tuples(rows, rows).map(torch.tensor))


@given(data=st.data())
def test_results_and_gradients_are_those_of_the_reference(data: st.DataObject) -> None:
    T, S = data.draw(st.integers(1, 6), label="T"), data.draw(st.integers(1, 6), label="S")
    side = st.sampled_from([None, 0, 1, 3])
    options: dict[str, Any] = {"scale": 0.6, "window": (data.draw(side, label="left"), data.draw(side, label="right"))}
    options["key_mask"] = data.draw(_masks(S), label="key_mask")
    has_sinks, has_bias = data.draw(st.booleans(), label="sinks"), data.draw(st.booleans(), label="bias")
    query, key, value, sinks, bias = _inputs(T, S)
    options |= {"sinks": sinks if has_sinks else None, "bias": bias if has_bias else None}
    inputs = [query, key, value, *([sinks] if has_sinks else []), *([bias] if has_bias else [])]
    ours, theirs = (function(query, key, value, **options).out for function in (sink_attention, reference.attention))
    assert_agree(ours, theirs, operations=OPERATIONS, condition=LARGEST)
    for a, b in zip(gradients([ours], inputs), gradients([theirs], inputs), strict=True):
        assert_agree(a, b, operations=OPERATIONS, condition=LARGEST**2)


@pytest.mark.parametrize("has_sinks", [False, True])
def test_a_row_without_keys_is_zero_and_has_no_gradient(has_sinks: bool) -> None:  # noqa: FBT001 - pytest's
    query, key, value, sinks, _ = _inputs(3, 3)
    mask = torch.tensor([[True, True, True], [False, False, False]])
    out = sink_attention(query, key, value, scale=1.0, key_mask=mask, sinks=sinks if has_sinks else None).out
    of_query, of_key, of_value = gradients([out], [query, key, value])
    assert [float(x[1].detach().abs().max()) for x in (out, of_query, of_key, of_value)] == [0.0] * 4


@pytest.mark.parametrize("has_sinks", [False, True])
def test_a_hidden_key_has_no_influence(has_sinks: bool) -> None:  # noqa: FBT001 - pytest's
    query, key, value, sinks, _ = _inputs(3, 3)
    mask = torch.tensor([[True, False, True], [True, True, False]])
    poisoned = (x.detach().masked_fill(~mask[:, :, None, None], torch.nan) for x in (key, value))
    options: dict[str, Any] = {"scale": 1.0, "key_mask": mask, "sinks": sinks if has_sinks else None}
    expected = sink_attention(query, key, value, **options).out
    assert torch.equal(sink_attention(query, *poisoned, **options).out, expected)


def test_16_bit_gradients_are_rounded_once() -> None:
    narrow = [x.detach().bfloat16().requires_grad_() for x in _inputs(6, 6)[:4]]
    wide = [x.detach().float().requires_grad_() for x in narrow]

    def run(query: Tensor, key: Tensor, value: Tensor, sinks: Tensor) -> Tensor:
        return sink_attention(query, key, value, scale=1.0, window=(None, 0), sinks=sinks).out

    cotangent = normal(2, 6, 4, 5, seed=5, requires_grad=False).bfloat16()
    of_narrow = torch.autograd.grad(run(*narrow), narrow, cotangent)
    of_wide = torch.autograd.grad(run(*wide), wide, cotangent.float())
    assert all(torch.equal(a, b.bfloat16()) for a, b in zip(of_narrow, of_wide, strict=True))


def test_a_mask_of_numbers_is_refused() -> None:
    x = torch.zeros(1, 2, 1, 2)
    assert_refused(
        lambda: sink_attention(x, x, x, scale=1.0, key_mask=torch.zeros(1, 2)), TypeError, "key_mask", "torch.float32"
    )
