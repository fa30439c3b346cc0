import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from optimized.eager.attention import AttentionOutput, attention, attention_stored, supports_stored
from optimized.eager.varlen_attention import varlen_attention
from tests.optimized.formulas import attention_by_loops, half_ulp
from tests.reference.agree import assert_agree, assert_gradcheck, assert_refused
from tests.reference.draws import normal

Attend = Callable[..., AttentionOutput]
BOTH = pytest.mark.parametrize("attend", [attention, attention_stored])
WINDOWS = [(None, None), (None, 0), (2, 0), (1, 1), (0, None)]
KEY_MASK = torch.tensor([[True, False, True, True, False, True], [True, True, False, True, True, True]])


def inputs(T: int, S: int, *, G: int = 2, V: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    return normal(2, T, 4, 8, seed=0), normal(2, S, G, 8, seed=1), normal(2, S, G, V, seed=2)


def allowed(value: Tensor) -> dict[str, float]:
    """Roundings on the way to one element, two sums of up to eight terms and a softmax, and what they act on.

    A logit moves a weight by its own error, so that one rounding can do what the largest value times the largest logit
    is; logits of the draws here stay below 4.
    """
    return {"operations": 3 * 8 + 8, "condition": 4 * float(value.detach().abs().max())}


@BOTH
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("lengths", [(5, 5), (3, 6), (6, 3)])
def test_windows_align_at_the_last_token(
    attend: Attend, window: tuple[int | None, int | None], lengths: tuple[int, int]
) -> None:
    query, key, value = inputs(*lengths)
    out, lse = attend(query, key, value, scale=0.3, window=window)
    expected = attention_by_loops(query.detach(), key.detach(), value.detach(), scale=0.3, window=window)
    assert_agree(out, expected[0], **allowed(value))  # type: ignore[arg-type]  # operations is a whole number
    assert_agree(lse, expected[1], **allowed(value))  # type: ignore[arg-type]  # the same


@BOTH
def test_sinks_key_mask_and_bias_enter_the_denominator(attend: Attend) -> None:
    query, key, value = (part.detach() for part in inputs(3, 6))
    sinks, bias = normal(4, seed=3, requires_grad=False), normal(4, 1, 6, seed=4, requires_grad=False)
    bias[1, 0, 3] = -math.inf
    out, lse = attend(query, key, value, scale=0.3, window=(4, 1), sinks=sinks, key_mask=KEY_MASK, bias=bias)
    expected = attention_by_loops(
        query, key, value, scale=0.3, window=(4, 1), sinks=sinks, key_mask=KEY_MASK, bias=bias
    )  # fmt: skip
    assert_agree(out, expected[0], **allowed(value))  # type: ignore[arg-type]  # operations is a whole number
    assert_agree(lse, expected[1], **allowed(value))  # type: ignore[arg-type]  # the same


def test_gradients_come_from_out_and_lse() -> None:
    query, key, value = inputs(3, 4)
    sinks, bias = normal(4, seed=3), normal(1, 4, 3, 4, seed=4)
    assert_gradcheck(
        lambda q, k, v, s, b: attention(q, k, v, scale=0.3, window=(2, 0), sinks=s, bias=b),
        (query, key, value, sinks, bias),
    )


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_row_that_sees_no_key_is_zero_with_zero_gradients(attend: Attend, dtype: torch.dtype) -> None:
    query, key, value = (part.detach().to(dtype).requires_grad_() for part in inputs(4, 2))
    out, lse = attend(query, key, value, scale=0.3, window=(None, 0))
    cotangents = (torch.ones_like(out), torch.ones_like(lse))
    gradients = torch.autograd.grad((out, lse), (query, key, value), cotangents)
    assert not out[:, :2].any()
    assert bool((lse[..., :2] == -math.inf).all())
    assert not gradients[0][:, :2].any()
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_a_hidden_row_with_a_sink_has_the_sink_as_lse() -> None:
    query, key, value = inputs(2, 3)
    sinks = normal(4, seed=3, requires_grad=False)
    lse = attention(query, key, value, scale=0.3, sinks=sinks, key_mask=torch.zeros(2, 3, dtype=torch.bool)).lse
    assert torch.equal(lse, sinks[None, :, None].expand(2, 4, 2))


def test_a_sink_of_minus_infinity_is_no_sink() -> None:
    query, key, value = inputs(3, 4)
    plain = attention(query, key, value, scale=0.3)
    sunk = attention(query, key, value, scale=0.3, sinks=torch.full((4,), -math.inf))
    assert torch.equal(plain.out, sunk.out)
    assert torch.equal(plain.lse, sunk.lse)


def test_what_stands_in_a_hidden_key_has_no_influence() -> None:
    query, key, value = (part.detach() for part in inputs(3, 6))
    poisoned_key, poisoned_value = (
        part.masked_fill(~KEY_MASK[..., None, None], math.nan).requires_grad_() for part in (key, value)
    )
    clean = attention(query, key, value, scale=0.3, key_mask=KEY_MASK).out
    out = attention(query, poisoned_key, poisoned_value, scale=0.3, key_mask=KEY_MASK).out
    gradients = torch.autograd.grad(out, (poisoned_key, poisoned_value), torch.ones_like(out))
    assert torch.equal(out, clean)
    assert not any(gradient[~KEY_MASK].any() for gradient in gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_are_rounded_once_and_lse_stays_in_float32(dtype: torch.dtype) -> None:
    query, key, value = (part.detach().to(dtype) for part in inputs(3, 6))
    exact, exact_lse = attention_by_loops(query, key, value, scale=0.3)
    out, lse = attention(query, key, value, scale=0.3)
    limits = allowed(value)
    float32_error = limits["operations"] * limits["condition"] * torch.finfo(torch.float32).eps
    assert out.dtype == dtype
    assert lse.dtype == torch.float32
    assert bool(((out.double() - exact).abs() <= half_ulp(exact, dtype) + float32_error).all())
    assert bool(((lse.double() - exact_lse).abs() <= float32_error).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_stored_formula_loses_what_storing_logits_costs(dtype: torch.dtype) -> None:
    query, key, value = (part.detach().to(dtype) for part in inputs(3, 6))
    exact, _ = attention_by_loops(query, key, value, scale=0.3)
    once, stored = (attend(query, key, value, scale=0.3).out.double() for attend in (attention, attention_stored))
    assert (stored - exact).norm() > (once - exact).norm()


def test_logits_that_float16_cannot_store_are_refused_beforehand() -> None:
    query = torch.full((1, 1, 1, 4), 200.0, dtype=torch.float16)
    sentence = supports_stored(query, query, query, scale=1.0)
    assert sentence == ("query, key: got logits of up to 1.6e+05, expected at most 6.55e+04, what torch.float16 stores")
    assert supports_stored(query, query, query, scale=0.1) is None


def test_packed_sequences_are_separate_ones() -> None:
    query, key, value = normal(5, 4, 3, seed=0), normal(7, 2, 3, seed=1), normal(7, 2, 5, seed=2)
    sinks = normal(4, seed=3)
    starts_q, starts_k = [0, 2, 2, 5], [0, 3, 5, 7]
    out, lse = varlen_attention(
        query, key, value, torch.tensor(starts_q), torch.tensor(starts_k), scale=0.3, window=(None, 0), sinks=sinks
    )
    for index in range(3):
        q, k = slice(*starts_q[index : index + 2]), slice(*starts_k[index : index + 2])
        part = attention(query[None, q], key[None, k], value[None, k], scale=0.3, window=(None, 0), sinks=sinks)
        assert torch.equal(out[q], part.out[0])
        assert torch.equal(lse[:, q], part.lse[0])


def test_a_sequence_without_keys_gives_zero() -> None:
    query, key = normal(3, 2, 4, seed=0), normal(2, 2, 4, seed=1)
    out, lse = varlen_attention(query, key, key, torch.tensor([0, 2, 3]), torch.tensor([0, 0, 2]), scale=0.5)
    assert not out[:2].any()
    assert bool((lse[:, :2] == -math.inf).all())


Q, K = torch.zeros(2, 3, 4, 8), torch.zeros(2, 5, 2, 8)
REFUSALS: dict[str, tuple[Callable[[], object], type[Exception], tuple[str, ...]]] = {
    "key width": (lambda: attention(Q, K[..., :4], K, scale=1.0), ValueError, ("key", "(2, 5, 2, 4)", "(2, S, G, 8)")),
    "heads": (lambda: attention(Q[:, :, :3], K, K, scale=1.0), ValueError, ("query heads", "3", "multiple of 2")),
    "sinks": (lambda: attention(Q, K, K, scale=1.0, sinks=torch.zeros(2)), ValueError, ("sinks", "(2,)", "(4)")),
    "mask dtype": (
        lambda: attention(Q, K, K, scale=1.0, key_mask=torch.zeros(2, 5)),
        TypeError, ("key_mask", "torch.float32", "boolean"),
    ),
    "mask shape": (
        lambda: attention(Q, K, K, scale=1.0, key_mask=torch.zeros(2, 3, dtype=torch.bool)),
        ValueError, ("key_mask", "(2, 3)", "(2, 5)"),
    ),
    "bias": (
        lambda: attention(Q, K, K, scale=1.0, bias=torch.zeros(2, 3)), ValueError, ("bias", "(2, 3)", "(2, 4, 3, 5)"),
    ),
    "offsets": (
        lambda: varlen_attention(Q[0], K[0], K[0], torch.tensor([0, 2]), torch.tensor([0, 5]), scale=1.0),
        ValueError, ("cu_seqlens_q", "[0, 2]", "0 to 3"),
    ),
    "sequences": (
        lambda: varlen_attention(Q[0], K[0], K[0], torch.tensor([0, 3]), torch.tensor([0, 2, 5]), scale=1.0),
        ValueError, ("cu_seqlens_k", "3 offsets", "2"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_bad_input_is_refused_with_a_sentence(case: str) -> None:
    call, error, parts = REFUSALS[case]
    assert_refused(call, error, *parts)
