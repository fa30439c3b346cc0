"""The chunked gated delta rule in plain torch agrees with the recurrence. Letters as in ``delta_bounds``."""

import pytest
import torch

from optimized.chunked_delta_rule import chunked_delta_rule
from tests.optimized.delta_bounds import draw_inputs, relative_errors, results, rounding_bound, true_results

SHAPES = [(2, 17, 2, 6, 8, 12), (1, 100, 1, 2, 16, 8), (1, 1, 1, 1, 4, 4), (1, 65, 2, 2, 8, 8)]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_results_and_gradients_are_those_of_the_recurrence(
    shape: tuple[int, int, int, int, int, int], dtype: torch.dtype
) -> None:
    inputs = draw_inputs(shape)
    errors = relative_errors(
        results(chunked_delta_rule, inputs.to(dtype), scale=0.5), true_results(inputs.to(dtype), scale=0.5)
    )
    assert max(errors.values()) <= rounding_bound(inputs, dtype, chunk_size=64), errors


@pytest.mark.parametrize("chunk_size", [1, 7, 16, 32, 128])
def test_chunk_size_does_not_change_the_result(chunk_size: int) -> None:
    inputs = draw_inputs((1, 50, 1, 2, 8, 8))
    actual = results(chunked_delta_rule, inputs, scale=0.5, chunk_size=chunk_size)
    errors = relative_errors(actual, true_results(inputs, scale=0.5))
    assert max(errors.values()) <= rounding_bound(inputs, torch.float64, chunk_size=chunk_size), errors


def test_normalisation_and_its_gradient_are_those_of_the_recurrence() -> None:
    inputs = draw_inputs((1, 20, 1, 3, 8, 8))
    inputs = inputs.with_changes(key=3 * inputs.key, query=0.01 * inputs.query)
    actual = results(chunked_delta_rule, inputs, scale=0.5, normalize_qk=True)
    errors = relative_errors(actual, true_results(inputs, scale=0.5, normalize_qk=True))
    assert max(errors.values()) <= rounding_bound(inputs, torch.float64, chunk_size=64), errors


@pytest.mark.parametrize("decay", [-30.0, -1000.0, -torch.inf])
def test_strong_decay_is_finite_and_right(decay: float) -> None:
    inputs = draw_inputs((1, 70, 1, 2, 8, 8))
    strong = inputs.log_decay.clone()
    strong[:, ::3] = decay
    inputs = inputs.with_changes(log_decay=strong)
    actual = results(chunked_delta_rule, inputs.to(torch.float32), scale=0.5)
    errors = relative_errors(actual, true_results(inputs, scale=0.5))
    assert max(errors.values()) <= rounding_bound(inputs, torch.float32, chunk_size=64), errors


def test_no_decay_is_a_decay_of_zero() -> None:
    inputs = draw_inputs((1, 20, 1, 2, 8, 8))
    arguments = (inputs.query, inputs.key, inputs.value)
    zeros = torch.zeros_like(inputs.beta)
    expected = chunked_delta_rule(*arguments, zeros, inputs.beta, scale=0.5)
    assert torch.equal(chunked_delta_rule(*arguments, None, inputs.beta, scale=0.5).out, expected.out)


def test_packed_sequences_are_separate_sequences() -> None:
    inputs = draw_inputs((1, 30, 1, 2, 8, 8))
    tensors = (inputs.query, inputs.key, inputs.value, inputs.log_decay, inputs.beta)
    offsets = torch.tensor([0, 11, 11, 30])
    states = inputs.initial_state.repeat(3, 1, 1, 1) * torch.arange(1, 4)[:, None, None, None]
    packed = chunked_delta_rule(*tensors, scale=0.5, initial_state=states, cu_seqlens=offsets, chunk_size=16)
    first = chunked_delta_rule(*(x[:, :11] for x in tensors), scale=0.5, initial_state=states[:1], chunk_size=16)
    last = chunked_delta_rule(*(x[:, 11:] for x in tensors), scale=0.5, initial_state=states[2:], chunk_size=16)
    assert torch.equal(packed.out, torch.cat([first.out, last.out], dim=1))
    assert torch.equal(packed.final_state, torch.cat([first.final_state, states[1:2], last.final_state]))


def test_rounded_operands_change_the_result_within_their_bound() -> None:
    inputs = draw_inputs((1, 40, 1, 2, 8, 8)).to(torch.bfloat16)
    truth = true_results(inputs, scale=0.5)
    rounded = results(chunked_delta_rule, inputs, scale=0.5, round_operands=True)
    errors = relative_errors(rounded, truth)
    exact = results(chunked_delta_rule, inputs, scale=0.5)
    assert not torch.equal(rounded["final_state"], exact["final_state"])
    assert max(errors.values()) <= rounding_bound(inputs, torch.bfloat16, chunk_size=64), errors


def test_chunk_size_must_be_positive() -> None:
    inputs = draw_inputs((1, 4, 1, 1, 4, 4))
    with pytest.raises(ValueError, match="chunk_size: got 0, expected a positive number of tokens"):
        chunked_delta_rule(
            inputs.query, inputs.key, inputs.value, inputs.log_decay, inputs.beta, scale=1.0, chunk_size=0
        )


def test_offsets_must_cover_the_tokens() -> None:
    inputs = draw_inputs((1, 4, 1, 1, 4, 4))
    tensors = (inputs.query, inputs.key, inputs.value, inputs.log_decay, inputs.beta)
    with pytest.raises(ValueError, match="cu_seqlens: got"):
        chunked_delta_rule(*tensors, scale=1.0, cu_seqlens=torch.tensor([0, 3]))
