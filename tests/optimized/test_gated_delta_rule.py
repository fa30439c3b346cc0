"""The Triton gated delta rule agrees with the recurrence, forward and backward. Letters as in ``delta_bounds``."""

import re

import pytest
import torch

from optimized.gated_delta_rule import gated_delta_rule, make_gated_delta_rule, supports
from tests.optimized.delta_bounds import (
    DeltaInputs,
    draw_inputs,
    relative_errors,
    results,
    rounding_bound,
    true_results,
)
from tests.optimized.refusals import assert_refused

Shape = tuple[int, int, int, int, int, int]


def assert_true(
    inputs: DeltaInputs, dtype: torch.dtype = torch.float32, *, chunk_size: int = 16, normalize_qk: bool = False
) -> None:
    """Compares every result and gradient with the recurrence on the same stored values."""
    stored = inputs.to(dtype)
    rule = make_gated_delta_rule(chunk_size=chunk_size)
    actual = results(rule, stored, scale=0.5, normalize_qk=normalize_qk)
    errors = relative_errors(actual, true_results(stored, scale=0.5, normalize_qk=normalize_qk))
    assert max(errors.values()) <= rounding_bound(inputs, dtype, chunk_size=chunk_size), errors


@pytest.mark.parametrize("tokens", [1, 17, 64, 65, 100])
def test_results_and_gradients_are_those_of_the_recurrence(tokens: int) -> None:
    assert_true(draw_inputs((1, tokens, 1, 1, 16, 16)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bit_results_and_gradients_are_those_of_the_recurrence(dtype: torch.dtype) -> None:
    assert_true(draw_inputs((1, 65, 1, 2, 32, 16)), dtype)


@pytest.mark.parametrize("shape", [(2, 10, 2, 2, 16, 16), (1, 20, 2, 6, 16, 16)], ids=["one", "three"])
def test_gradients_of_grouped_heads_are_summed_over_the_group(shape: Shape) -> None:
    assert_true(draw_inputs(shape), chunk_size=16)


@pytest.mark.parametrize("widths", [(40, 72), (96, 8), (128, 128), (192, 256)], ids=str)
def test_widths_need_not_be_powers_of_two(widths: tuple[int, int]) -> None:
    assert_true(draw_inputs((1, 20, 1, 1, *widths)), chunk_size=16)


@pytest.mark.parametrize(
    ("chunk_size", "dtype"),
    [(16, torch.float32), (16, torch.bfloat16), (32, torch.float16), (64, torch.bfloat16)],
)
def test_every_chunk_size_gives_the_same_result(chunk_size: int, dtype: torch.dtype) -> None:
    assert_true(draw_inputs((1, 70, 1, 1, 16, 16)), dtype, chunk_size=chunk_size)


@pytest.mark.parametrize("decay", [-30.0, -1000.0, -torch.inf])
def test_strong_decay_is_finite_and_right(decay: float) -> None:
    inputs = draw_inputs((1, 70, 1, 1, 16, 16))
    strong = inputs.log_decay.clone()
    strong[:, 5::2] = decay
    assert_true(inputs.with_changes(log_decay=strong))


def test_uniformly_strong_decay_is_finite_and_right() -> None:
    inputs = draw_inputs((1, 70, 1, 1, 16, 16))
    assert_true(inputs.with_changes(log_decay=torch.full_like(inputs.log_decay, -30.0)))


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_beta_of_zero_and_one_is_right(beta: float) -> None:
    inputs = draw_inputs((1, 70, 1, 1, 16, 16), decay=0.0)
    assert_true(inputs.with_changes(beta=torch.full_like(inputs.beta, beta)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_near_parallel_keys_are_right(dtype: torch.dtype) -> None:
    inputs = draw_inputs((1, 70, 1, 1, 16, 16), decay=0.0)
    key = torch.nn.functional.normalize(inputs.key[:, :1] + 2.0**-6 * inputs.key, dim=-1)
    assert_true(inputs.with_changes(key=key, beta=torch.ones_like(inputs.beta)), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_normalisation_and_its_gradient_are_those_of_the_recurrence(dtype: torch.dtype) -> None:
    inputs = draw_inputs((1, 20, 1, 2, 24, 16))
    inputs = inputs.with_changes(key=4 * inputs.key, query=2 * inputs.query)
    assert_true(inputs, dtype, chunk_size=16, normalize_qk=True)


def test_a_zero_key_is_normalised_to_zero_with_a_finite_gradient() -> None:
    inputs = draw_inputs((1, 5, 1, 1, 16, 16))
    key = inputs.key.clone()
    key[:, 2] = 0
    actual = results(gated_delta_rule, inputs.with_changes(key=key).to(torch.float32), scale=0.5, normalize_qk=True)
    assert all(bool(x.isfinite().all()) for x in actual.values())


def test_a_cotangent_of_the_final_state_alone_gives_every_gradient() -> None:
    inputs = draw_inputs((2, 20, 1, 2, 16, 16))
    assert_true(inputs.with_changes(out_gradient=torch.zeros_like(inputs.out_gradient)), chunk_size=16)


def test_an_output_alone_can_be_differentiated() -> None:
    inputs = draw_inputs((1, 5, 1, 1, 16, 16))
    silent = inputs.with_changes(state_gradient=torch.zeros_like(inputs.state_gradient)).to(torch.float32)
    expected = results(gated_delta_rule, silent, scale=0.5)
    value = silent.value.clone().requires_grad_()
    out, _ = gated_delta_rule(
        silent.query, silent.key, value, silent.log_decay, silent.beta, scale=0.5, initial_state=silent.initial_state
    )
    out.backward(silent.out_gradient)  # type: ignore[no-untyped-call]  # torch leaves it so
    assert value.grad is not None
    assert torch.equal(value.grad, expected["value"])


def test_no_initial_state_is_a_state_of_zero() -> None:
    inputs = draw_inputs((1, 20, 1, 1, 16, 16)).to(torch.float32)
    tensors = (inputs.query, inputs.key, inputs.value, inputs.log_decay, inputs.beta)
    zeros = torch.zeros_like(inputs.initial_state)
    expected = gated_delta_rule(*tensors, scale=0.5, initial_state=zeros)
    assert torch.equal(gated_delta_rule(*tensors, scale=0.5).out, expected.out)


def test_no_decay_is_a_decay_of_zero() -> None:
    inputs = draw_inputs((1, 20, 1, 1, 16, 16)).to(torch.float32)
    zeros = inputs.with_changes(log_decay=torch.zeros_like(inputs.log_decay))
    expected = results(gated_delta_rule, zeros, scale=0.5)
    arguments = [x.clone().requires_grad_() for x in (inputs.query, inputs.key, inputs.value, inputs.beta)]
    query, key, value, beta = arguments
    result = gated_delta_rule(query, key, value, None, beta, scale=0.5, initial_state=inputs.initial_state)
    gradients = torch.autograd.grad(list(result), arguments, [inputs.out_gradient, inputs.state_gradient])
    for name, gradient in zip(("query", "key", "value", "beta"), gradients, strict=True):
        assert torch.equal(gradient, expected[name]), name


def test_a_run_can_go_on_from_the_state_of_another() -> None:
    inputs = draw_inputs((1, 48, 1, 1, 16, 16)).to(torch.float32)
    tensors = (inputs.query, inputs.key, inputs.value, inputs.log_decay, inputs.beta)
    rule = make_gated_delta_rule(chunk_size=16)
    whole = rule(*tensors, scale=0.5, initial_state=inputs.initial_state)
    first = rule(*(x[:, :32] for x in tensors), scale=0.5, initial_state=inputs.initial_state)
    second = rule(*(x[:, 32:] for x in tensors), scale=0.5, initial_state=first.final_state)
    assert torch.equal(torch.cat([first.out, second.out], dim=1), whole.out)
    assert torch.equal(second.final_state, whole.final_state)


def test_future_tokens_do_not_change_the_past() -> None:
    inputs = draw_inputs((1, 40, 1, 1, 16, 16)).to(torch.float32)
    tensors = (inputs.query, inputs.key, inputs.value, inputs.log_decay, inputs.beta)
    changed = tuple(torch.cat([x[:, :23], -2 * x[:, 23:]], dim=1) for x in tensors)
    expected = gated_delta_rule(*tensors, scale=0.5).out
    actual = gated_delta_rule(*changed, scale=0.5).out
    assert torch.equal(actual[:, :23], expected[:, :23])
    assert not torch.equal(actual[:, 23], expected[:, 23])


def test_non_contiguous_tensors_give_the_same_bits() -> None:
    inputs = draw_inputs((2, 20, 1, 2, 16, 16)).to(torch.float32)
    strided = inputs.with_changes(
        query=inputs.query.transpose(1, 3).contiguous().transpose(1, 3),
        key=torch.cat([inputs.key, inputs.key], dim=-1)[..., :16],
        value=inputs.value.transpose(1, 2).contiguous().transpose(1, 2),
        beta=inputs.beta.transpose(1, 2).contiguous().transpose(1, 2),
    )
    expected = results(gated_delta_rule, inputs, scale=0.5)
    query = strided.query.requires_grad_()
    result = gated_delta_rule(
        query, strided.key, strided.value, strided.log_decay, strided.beta, scale=0.5,
        initial_state=strided.initial_state,
    )  # fmt: skip
    cotangent = inputs.out_gradient.transpose(1, 2).contiguous().transpose(1, 2)
    (gradient,) = torch.autograd.grad(list(result), [query], [cotangent, inputs.state_gradient])
    assert torch.equal(result.out.detach(), expected["out"])
    assert torch.equal(gradient, expected["query"])


def test_results_and_gradients_have_the_promised_dtypes() -> None:
    inputs = draw_inputs((1, 5, 1, 1, 16, 16)).to(torch.bfloat16)
    inputs = inputs.with_changes(log_decay=inputs.log_decay.float(), initial_state=inputs.initial_state.float())
    dtypes = {name: x.dtype for name, x in results(gated_delta_rule, inputs, scale=0.5).items()}
    wide = {name for name, dtype in dtypes.items() if dtype == torch.float32}
    assert wide == {"final_state", "log_decay", "initial_state"}
    assert {dtypes[name] for name in dtypes.keys() - wide} == {torch.bfloat16}


def narrow(inputs: DeltaInputs, tokens: slice, sequence: slice) -> DeltaInputs:
    """Returns the inputs of some tokens, and the initial state and the cotangent of the final one of a sequence."""
    of_tokens = ("query", "key", "value", "log_decay", "beta", "out_gradient")
    changes = {name: getattr(inputs, name)[:, tokens] for name in of_tokens}
    changes |= {name: getattr(inputs, name)[sequence] for name in ("initial_state", "state_gradient")}
    return inputs.with_changes(**changes)


def draw_packed(lengths: list[int]) -> tuple[DeltaInputs, torch.Tensor]:
    """Draws packed sequences, each with states of its own, and their offsets."""
    inputs = draw_inputs((1, sum(lengths), 1, 2, 24, 16))
    states = draw_inputs((len(lengths), 1, 1, 2, 24, 16), seed=1)
    inputs = inputs.with_changes(initial_state=states.initial_state, state_gradient=states.state_gradient)
    return inputs, torch.tensor([0, *lengths]).cumsum(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_packed_sequences_give_the_bits_of_each_alone(dtype: torch.dtype) -> None:
    inputs, offsets = draw_packed([17, 0, 1, 64, 40])
    inputs = inputs.to(dtype)
    packed = results(gated_delta_rule, inputs, scale=0.5, normalize_qk=True, cu_seqlens=offsets)
    for number in (0, 2, 3, 4):
        tokens, one = slice(int(offsets[number]), int(offsets[number + 1])), slice(number, number + 1)
        alone = results(gated_delta_rule, narrow(inputs, tokens, one), scale=0.5, normalize_qk=True)
        for name, expected in alone.items():
            place = one if name in {"final_state", "initial_state"} else (slice(None), tokens)
            assert torch.equal(packed[name][place], expected), (number, name)


def test_an_empty_sequence_hands_its_state_and_its_cotangent_on() -> None:
    inputs, offsets = draw_packed([0, 3, 0])
    inputs = inputs.to(torch.float32)
    packed = results(gated_delta_rule, inputs, scale=0.5, cu_seqlens=offsets)
    assert torch.equal(packed["final_state"][::2], inputs.initial_state[::2])
    assert torch.equal(packed["initial_state"][::2], inputs.state_gradient[::2])


def test_an_empty_sequence_without_initial_state_ends_in_zero() -> None:
    inputs = draw_inputs((1, 5, 1, 1, 16, 16)).to(torch.float32)
    tensors = (inputs.query, inputs.key, inputs.value, inputs.log_decay, inputs.beta)
    final_state = gated_delta_rule(*tensors, scale=0.5, cu_seqlens=torch.tensor([0, 0, 5, 5])).final_state
    assert torch.equal(final_state[::2], torch.zeros_like(final_state[::2]))


def test_strides_that_a_tile_cannot_hold_give_the_same_bits() -> None:
    inputs = draw_inputs((1, 2, 1, 1, 16, 16)).to(torch.float32)
    far = torch.empty(2**24 + 64).as_strided(inputs.key.shape, (1, 2**24, 16, 1)).copy_(inputs.key)
    tensors = (inputs.value, inputs.log_decay, inputs.beta)
    expected = gated_delta_rule(inputs.query, inputs.key, *tensors, scale=0.5)
    assert torch.equal(gated_delta_rule(inputs.query, far, *tensors, scale=0.5).out, expected.out)


@pytest.mark.parametrize(
    ("shape", "dtype", "sentence"),
    [
        ((1, 2, 1, 1, 260, 16), torch.float32, "query: got D = 260, expected at most 256"),
        ((1, 2, 1, 1, 16, 257), torch.bfloat16, "value: got V = 257, expected at most 256"),
        ((1, 2, 1, 1, 16, 16), torch.float64, "query: got dtype torch.float64, expected float32, bfloat16 or float16"),
    ],
)
def test_what_is_not_supported_is_refused_in_the_same_sentence(shape: Shape, dtype: torch.dtype, sentence: str) -> None:
    inputs = draw_inputs(shape).to(dtype)
    tensors = (inputs.query, inputs.key, inputs.value, inputs.log_decay, inputs.beta)
    assert_refused(gated_delta_rule, supports, *tensors, sentence=sentence, scale=0.5)


@pytest.mark.parametrize(
    ("width", "dtype", "sentence"),
    [
        (16, torch.float32, "chunk_size: got 64, expected at most 16 for D = 16 in torch.float32"),
        (130, torch.bfloat16, "chunk_size: got 64, expected at most 32 for D = 130 in torch.bfloat16"),
    ],
)
def test_a_chunk_that_registers_do_not_hold_is_refused(width: int, dtype: torch.dtype, sentence: str) -> None:
    inputs = draw_inputs((1, 2, 1, 1, width, 16)).to(dtype)
    tensors = (inputs.query, inputs.key, inputs.value, inputs.log_decay, inputs.beta)
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        make_gated_delta_rule(chunk_size=64)(*tensors, scale=0.5)


def test_heads_that_do_not_divide_are_refused() -> None:
    inputs = draw_inputs((1, 4, 2, 2, 16, 16)).to(torch.float32)
    value, gates = inputs.value[:, :, :1], inputs.beta[:, :, :1]
    with pytest.raises(ValueError, match="value: got 1 heads, expected a multiple of the 2 heads of query"):
        gated_delta_rule(inputs.query, inputs.key, value, gates, gates, scale=0.5)


def test_an_unknown_chunk_size_is_refused() -> None:
    with pytest.raises(ValueError, match="chunk_size: got 48, expected one of 16, 32, 64"):
        make_gated_delta_rule(chunk_size=48)
