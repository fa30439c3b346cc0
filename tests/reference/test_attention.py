import math
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from reference import Window, attention
from tests.reference.agree import assert_agree, assert_gradcheck, assert_refused, cotangents, gradients
from tests.reference.draws import normal
from tests.reference.second import online_attention

INF = math.inf
WINDOWS: list[Window] = [(None, None), (None, 0), (2, 0), (0, 0), (1, 2), (None, 1), (0, None)]


def _inputs(B: int = 2, T: int = 5, S: int = 7, H: int = 4, G: int = 2, D: int = 3, V: int = 4) -> list[Tensor]:
    return [normal(B, T, H, D, seed=0), normal(B, S, G, D, seed=1), normal(B, S, G, V, seed=2)]


def _mask(B: int, S: int) -> Tensor:
    return normal(B, S, seed=8, requires_grad=False) > -0.5


def test_one_visible_key_returns_its_value_exactly() -> None:
    query, key, value = _inputs(T=7)
    out, _ = attention(query, key, value, scale=0.7, window=(0, 0))
    assert torch.equal(out, value.repeat_interleave(2, 2))


def test_one_visible_key_has_its_logit_as_lse() -> None:
    query, key, value = _inputs(T=7, G=4)
    _, lse = attention(query, key, value, scale=0.7, window=(0, 0))
    logits = 0.7 * (query * key).sum(-1).transpose(1, 2)
    assert_agree(lse, logits, operations=3 + 3, condition=(query * key).detach().abs().sum(-1).transpose(1, 2))


def test_equal_logits_average_the_visible_values() -> None:
    _, key, value = _inputs(T=5, S=5, H=2)
    query = torch.zeros(2, 5, 2, 3, dtype=torch.float64)
    out, _ = attention(query, key, value, scale=1.0, window=(None, 0))
    means = value.cumsum(1) / torch.arange(1, 6, dtype=torch.float64)[:, None, None]
    assert_agree(out, means, operations=2 * 5, condition=float(value.detach().abs().max()))


def test_equal_logits_have_the_log_of_their_number_as_lse() -> None:
    _, key, value = _inputs(T=5, S=5, H=2)
    _, lse = attention(torch.zeros(2, 5, 2, 3, dtype=torch.float64), key, value, scale=1.0, window=(None, 0))
    expected = torch.tensor([math.log(n) for n in range(1, 6)], dtype=torch.float64).expand(2, 2, 5)
    assert_agree(lse, expected, operations=2, condition=1.0 + expected)


def test_two_keys_are_weighted_by_a_logistic_function() -> None:
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    key = torch.tensor([2.0, -1.0], dtype=torch.float64).reshape(1, 2, 1, 1)
    value = torch.tensor([1.0, 0.0], dtype=torch.float64).reshape(1, 2, 1, 1)
    out, _ = attention(one, key, value, scale=0.5)
    assert_agree(out, one / (1 + math.exp(-1.5)), operations=6, condition=1.0)


def test_a_huge_logit_returns_its_value_exactly() -> None:
    query, key, value = _inputs(B=1, T=3, S=3, H=1, G=1, D=3)
    identity = torch.eye(3, dtype=torch.float64).reshape(1, 3, 1, 3)
    out, lse = attention(identity, identity, value, scale=1e6)
    assert torch.equal(out, value)
    assert torch.equal(lse, torch.full((1, 1, 3), 1e6, dtype=torch.float64))
    assert query.shape == key.shape


def test_huge_negative_logits_are_shifted() -> None:
    query, key, value = _inputs(H=2)
    bias = torch.full((1, 1, 1, 7), -(2.0**40), dtype=torch.float64)
    shifted = attention(query, key, value, scale=0.5, bias=bias)
    plain = attention(query, key, value, scale=0.5)
    assert_agree(shifted.lse, plain.lse - 2.0**40, operations=4, condition=2.0**40)
    assert_agree(shifted.out, plain.out, operations=8, condition=2.0**40)


def test_query_heads_read_their_group() -> None:
    query, key, value = _inputs(H=6, G=2)
    repeated = attention(query, key.repeat_interleave(3, 2), value.repeat_interleave(3, 2), scale=0.5)
    for a, b in zip(attention(query, key, value, scale=0.5), repeated, strict=True):
        assert torch.equal(a, b)


def test_a_sink_takes_its_share_of_the_denominator() -> None:
    query, key, value = _inputs(H=2)
    sinks = normal(2, seed=3)
    plain = attention(query, key, value, scale=0.5)
    share = 1 / (1 + (sinks[:, None] - plain.lse).exp())
    out, lse = attention(query, key, value, scale=0.5, sinks=sinks)
    assert_agree(out, plain.out * share.transpose(1, 2)[..., None], operations=16, condition=8.0)
    assert_agree(lse, torch.logaddexp(plain.lse, sinks[:, None]), operations=12, condition=8.0)


def test_a_sink_is_not_scaled() -> None:
    zeros = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    _, lse = attention(zeros, zeros, zeros, scale=100.0, sinks=torch.tensor([1.0], dtype=torch.float64))
    assert_agree(lse[0, 0], torch.tensor([math.log(1 + math.e)], dtype=torch.float64), operations=4, condition=2.0)


def test_sinks_of_minus_infinity_are_no_sinks() -> None:
    query, key, value = _inputs()
    sinks = torch.full((4,), -INF, dtype=torch.float64, requires_grad=True)
    sunk = attention(query, key, value, scale=0.5, window=(None, 0), sinks=sinks)
    plain = attention(query, key, value, scale=0.5, window=(None, 0))
    *ours, d_sinks = gradients(sunk, [query, key, value, sinks])
    assert all(torch.equal(a, b) for a, b in zip(sunk, plain, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(ours, gradients(plain, [query, key, value]), strict=True))
    assert not d_sinks.any()


def test_a_row_without_keys_is_zero_and_minus_infinity() -> None:
    query, key, value = _inputs(T=4, S=2)
    out, lse = attention(query, key, value, scale=0.5, window=(None, 0))
    assert not out[:, :2].any()
    assert lse[:, :, :2].eq(-INF).all()
    assert lse[:, :, 2:].isfinite().all()


def test_a_row_with_only_a_sink_is_zero_and_the_sink() -> None:
    query, key, value = _inputs(T=4, S=2)
    sinks = normal(4, seed=3)
    out, lse = attention(query, key, value, scale=0.5, window=(None, 0), sinks=sinks)
    assert not out[:, :2].any()
    assert torch.equal(lse[:, :, 0], sinks.expand(2, 4))


@pytest.mark.parametrize("how", ["window", "key_mask", "bias", "no keys"])
def test_rows_without_keys_have_gradients_of_exactly_zero(how: str) -> None:
    query, key, value = _inputs(T=3, S=0 if how == "no keys" else 2)
    if how == "window":
        query = normal(2, 3, 4, 3, seed=0)
    bias = torch.full((2, 4, 3, key.shape[1]), -INF, dtype=torch.float64, requires_grad=True)
    hidden: dict[str, dict[str, Any]] = {
        "window": {"window": (0, None), "key_mask": torch.zeros(2, 2, dtype=torch.bool)},
        "key_mask": {"key_mask": torch.zeros(2, 2, dtype=torch.bool)},
        "bias": {"bias": bias},
        "no keys": {},
    }
    outputs = attention(query, key, value, scale=0.5, **hidden[how])
    inputs = [query, key, value, *([bias] if how == "bias" else [])]
    assert not any(gradient.ne(0).any() for gradient in gradients(outputs, inputs))


def test_the_query_gradient_of_an_empty_row_beside_full_rows_is_zero() -> None:
    query, key, value = _inputs(T=4, S=2)
    (d_query,) = gradients(attention(query, key, value, scale=0.5, window=(None, 0)), [query])
    assert not d_query[:, :2].any()
    assert d_query[:, 3].all()


def test_the_sink_of_an_empty_row_receives_the_cotangent_of_lse() -> None:
    query, key, value = _inputs(B=1, T=1, S=1)
    sinks, nothing = normal(4, seed=3), torch.zeros(1, 1, dtype=torch.bool)
    outputs = attention(query, key, value, scale=0.5, sinks=sinks, key_mask=nothing)
    (d_sinks,) = gradients(outputs, [sinks])
    assert torch.equal(d_sinks, cotangents(outputs)[1][0, :, 0])


def test_a_bias_of_minus_infinity_is_a_key_mask() -> None:
    query, key, value = _inputs()
    mask = _mask(2, 7)
    bias = torch.zeros(2, 1, 1, 7, dtype=torch.float64).masked_fill(~mask[:, None, None], -INF).requires_grad_()
    biased = attention(query, key, value, scale=0.5, bias=bias)
    masked = attention(query, key, value, scale=0.5, key_mask=mask)
    *ours, d_bias = gradients(biased, [query, key, value, bias])
    assert all(torch.equal(a, b) for a, b in zip(biased, masked, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(ours, gradients(masked, [query, key, value]), strict=True))
    assert not d_bias[~mask[:, None, None]].any()


def test_a_window_larger_than_the_sequence_is_no_window() -> None:
    query, key, value = _inputs()
    for a, b in zip(
        attention(query, key, value, scale=0.5, window=(100, 100)), attention(query, key, value, scale=0.5), strict=True
    ):
        assert torch.equal(a, b)


def test_hidden_keys_have_no_influence() -> None:
    query, key, value = _inputs()
    mask = _mask(2, 7)
    other_key = torch.where(mask[:, :, None, None], key, 1e3 * key)
    other_value = torch.where(mask[:, :, None, None], value, 1e3 * value)
    one = attention(query, key, value, scale=0.5, key_mask=mask)
    other = attention(query, other_key, other_value, scale=0.5, key_mask=mask)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_parts_of_the_keys_merge_by_their_lse() -> None:
    query, key, value = _inputs()
    whole = attention(query, key, value, scale=0.5)
    first = attention(query, key[:, :3], value[:, :3], scale=0.5)
    second = attention(query, key[:, 3:], value[:, 3:], scale=0.5)
    lse = torch.logaddexp(first.lse, second.lse)
    shares = [(part.lse - lse).exp().transpose(1, 2)[..., None] for part in (first, second)]
    largest = float(value.detach().abs().max())
    assert_agree(whole.lse, lse, operations=7 + 10, condition=1 + float(lse.detach().abs().max()))
    assert_agree(whole.out, first.out * shares[0] + second.out * shares[1], operations=2 * 7 + 20, condition=largest)


def test_it_agrees_with_torch() -> None:
    query, key, value = _inputs(H=2)
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    ours = attention(query, key, value, scale=3**-0.5).out
    assert_agree(ours, theirs.transpose(1, 2), operations=2 * 7 + 10, condition=float(value.detach().abs().max()) * 8)


@pytest.mark.parametrize(("T", "S"), [(5, 7), (6, 3), (1, 4)])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("has_sinks", [True, False])
def test_one_pass_over_blocks_agrees_with_its_gradients(T: int, S: int, window: Window, *, has_sinks: bool) -> None:
    query, key, value = _inputs(T=T, S=S)
    sinks = normal(4, seed=3) if has_sinks else None
    bias, mask = normal(2, 4, T, S, seed=4), _mask(2, S)
    ours = attention(query, key, value, scale=0.5, window=window, sinks=sinks, key_mask=mask, bias=bias)
    inputs = [query, key, value, bias, *([] if sinks is None else [sinks])]
    with torch.no_grad():
        problem = online_attention.Problem(query, key, value, 0.5, window, sinks, mask, bias)
        theirs = online_attention.forward(problem, block=2)
        expected = online_attention.backward(problem, *theirs, *cotangents(ours))
    for a, b in zip(ours, theirs, strict=True):
        assert_agree(a, b, operations=3 * S + 16, condition=10.0)
    for a, b in zip(gradients(ours, inputs), expected, strict=True):
        assert_agree(a, b, operations=4 * (S + T) + 32, condition=10.0 + float(b.abs().max()))


@pytest.mark.parametrize("bias_shape", [(7,), (5, 7), (4, 1, 7), (2, 1, 1, 1)])
def test_a_bias_of_fewer_axes_is_broadcast(bias_shape: tuple[int, ...]) -> None:
    query, key, value = _inputs()
    bias = normal(*bias_shape, seed=4)
    small = attention(query, key, value, scale=0.5, bias=bias)
    full = attention(query, key, value, scale=0.5, bias=bias.expand(2, 4, 5, 7))
    assert all(torch.equal(a, b) for a, b in zip(small, full, strict=True))
    (gradient,) = gradients(small, [bias])
    assert gradient.shape == bias_shape


@pytest.mark.parametrize("window", WINDOWS)
def test_gradients_hold_for_every_window(window: Window) -> None:
    query, key, value = _inputs(B=1, T=4, S=4, H=2, G=1, D=2, V=2)
    mask = torch.tensor([[True, True, False, True]])
    sinks = normal(2, seed=3)

    def function(*inputs: Tensor) -> tuple[Tensor, ...]:
        return attention(*inputs[:3], scale=0.7, window=window, sinks=inputs[3], key_mask=mask)

    assert_gradcheck(function, (query, key, value, sinks))


def test_no_queries_are_legal() -> None:
    query, key, value = _inputs(T=0)
    out, lse = attention(query, key, value, scale=0.5)
    assert (out.shape, lse.shape) == ((2, 0, 4, 4), (2, 4, 0))


REFUSALS: list[tuple[dict[str, Any], type[Exception], tuple[str, ...]]] = [
    ({"query": normal(2, 5, 4, seed=0)}, ValueError, ("query", "(2, 5, 4)", "(B, T, H, D)")),
    ({"key": normal(2, 7, 2, 2, seed=0)}, ValueError, ("key", "(2, 7, 2, 2)", "D=3")),
    ({"key": normal(2, 7, 3, 3, seed=0), "value": normal(2, 7, 3, 4, seed=0)}, ValueError, ("query", "4", "3")),
    ({"value": normal(2, 6, 2, 4, seed=0)}, ValueError, ("value", "(2, 6, 2, 4)", "S=7")),
    ({"value": normal(2, 7, 2, 4, seed=0).float()}, TypeError, ("value", "float32", "float64")),
    ({"value": normal(2, 7, 2, 4, seed=0).to("meta")}, ValueError, ("value", "meta", "cpu")),
    ({"query": [1.0]}, TypeError, ("query", "list", "tensor")),
    ({"key": None}, TypeError, ("key", "NoneType", "tensor")),
    ({"window": (-1, 0)}, ValueError, ("window", "(-1, 0)", "negative")),
    ({"window": 3}, TypeError, ("window", "3", "(left, right)")),
    ({"sinks": normal(2, seed=0)}, ValueError, ("sinks", "(2,)", "H=4")),
    ({"sinks": normal(4, seed=0).float()}, TypeError, ("sinks", "float32", "float64")),
    ({"key_mask": torch.ones(2, 7)}, TypeError, ("key_mask", "float32", "bool")),
    ({"key_mask": torch.ones(2, 5, dtype=torch.bool)}, ValueError, ("key_mask", "(2, 5)", "S=7")),
    ({"key_mask": torch.ones(2, 7, dtype=torch.bool, device="meta")}, ValueError, ("key_mask", "meta", "cpu")),
    ({"bias": normal(3, 1, 5, 7, seed=0)}, ValueError, ("bias", "(3, 1, 5, 7)", "B=2")),
    ({"bias": normal(1, 2, 4, 5, 7, seed=0)}, ValueError, ("bias", "(1, 2, 4, 5, 7)", "T=5")),
    ({"bias": normal(5, 7, seed=0).float()}, TypeError, ("bias", "float32", "float64")),
]


@pytest.mark.parametrize(("change", "error", "parts"), REFUSALS)
def test_a_wrong_argument_is_refused(change: dict[str, Any], error: type[Exception], parts: tuple[str, ...]) -> None:
    tensors = dict(zip(("query", "key", "value"), _inputs(), strict=True))
    arguments: dict[str, Any] = {**tensors, "scale": 0.5, **change}
    assert_refused(lambda: attention(**arguments), error, *parts)


@pytest.mark.parametrize("bias_shape", [(2, 4, 7, 9), (7, 9), (9,), (4, 1, 9)], ids=str)
def test_blocks_of_queries_change_neither_results_nor_gradients(
    monkeypatch: pytest.MonkeyPatch, bias_shape: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(5)

    def call() -> list[torch.Tensor]:
        generator.manual_seed(5)
        shapes = {"query": (2, 7, 4, 3), "key": (2, 9, 2, 3), "value": (2, 9, 2, 5), "sinks": (4,), "bias": bias_shape}
        made = {
            name: torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
            for name, shape in shapes.items()
        }
        found = attention(
            made["query"], made["key"], made["value"], scale=0.5, window=(3, 1), sinks=made["sinks"], bias=made["bias"]
        )
        loss = (found.out * torch.randn(found.out.shape, generator=generator, dtype=torch.float64)).sum()
        return [*found, *torch.autograd.grad(loss + found.lse.square().sum(), list(made.values()))]

    whole = call()
    # The module and not the function of its name: blocks of two tokens.
    monkeypatch.setattr(sys.modules["reference.attention"], "_PAIRS", 2 * 4 * 9 * 2)
    for one, other in zip(whole, call(), strict=True):
        # Sums over 7 tokens, 4 heads and 2 batch rows in another order: a rounding of the largest term for each.
        assert (one - other).abs().max().item() <= 7 * 4 * 2 * 2**-53 * max(one.abs().max().item(), 1.0)
