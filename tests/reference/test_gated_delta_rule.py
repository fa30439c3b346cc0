import sys
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from reference import gated_delta_rule, l2_norm
from tests.reference.agree import assert_agree, assert_gradcheck, assert_refused, gradients
from tests.reference.draws import DeltaRuleInputs, delta_rule_inputs, normal
from tests.reference.second.chunked_delta_rule import chunked_delta_rule


def _tokens(inputs: DeltaRuleInputs, tokens: slice) -> tuple[Tensor, ...]:
    return tuple(x[:, tokens] for x in inputs[:5])


def _one_hot(*positions: int, width: int) -> Tensor:
    return torch.eye(width, dtype=torch.float64)[list(positions)].reshape(1, -1, 1, width)


def test_orthonormal_keys_with_full_beta_are_an_exact_memory() -> None:
    keys = _one_hot(2, 0, 3, 1, width=4)
    value, ones = normal(1, 4, 1, 5, seed=0), torch.ones(1, 4, 1, dtype=torch.float64)
    state = gated_delta_rule(keys, keys, value, None, ones, scale=1.0).final_state
    assert torch.equal(state[0, 0][[2, 0, 3, 1]], value[0, :, 0])


def test_a_second_write_replaces_the_first() -> None:
    keys = _one_hot(1, 1, width=3)
    value = torch.tensor([1.0, 8.0], dtype=torch.float64).reshape(1, 2, 1, 1)
    out, _ = gated_delta_rule(keys, keys, value, None, torch.ones(1, 2, 1, dtype=torch.float64), scale=1.0)
    assert out.flatten().tolist() == [1.0, 8.0]


def test_half_beta_moves_half_way() -> None:
    keys = _one_hot(1, 1, width=3)
    value = torch.tensor([4.0, 8.0], dtype=torch.float64).reshape(1, 2, 1, 1)
    out, _ = gated_delta_rule(keys, keys, value, None, torch.full((1, 2, 1), 0.5, dtype=torch.float64), scale=1.0)
    assert out.flatten().tolist() == [2.0, 5.0]


def test_a_query_reads_the_state_that_its_own_token_wrote() -> None:
    key, ones = _one_hot(0, width=2), torch.ones(1, 1, 1, dtype=torch.float64)
    value = torch.tensor([3.0], dtype=torch.float64).reshape(1, 1, 1, 1)
    assert gated_delta_rule(key, key, value, -5 * ones, ones, scale=2.0).out.item() == 6.0


def test_the_write_reads_the_decayed_state() -> None:
    key, half = _one_hot(0, width=1), torch.full((1, 1, 1), 0.5, dtype=torch.float64)
    value, state = torch.zeros(1, 1, 1, 1, dtype=torch.float64), torch.full((1, 1, 1, 1), 8.0, dtype=torch.float64)
    final = gated_delta_rule(key, key, value, half.log(), half, scale=1.0, initial_state=state).final_state
    assert_agree(final, state / 4, operations=4, condition=2.0)


def test_beta_of_zero_writes_nothing() -> None:
    query, key, value, _, beta, state = delta_rule_inputs(2, 5, 1, 2, 3, 4)
    final = gated_delta_rule(query, key, value, None, 0 * beta, scale=1.0, initial_state=state).final_state
    assert torch.equal(final, state)


def test_without_writes_the_state_decays_geometrically() -> None:
    query, key, value, _, beta, state = delta_rule_inputs(2, 5, 1, 2, 3, 4)
    log_decay = torch.full((2, 5, 2), -0.25, dtype=torch.float64)
    final = gated_delta_rule(query, key, value, log_decay, 0 * beta, scale=1.0, initial_state=state).final_state
    expected = state * torch.tensor(-1.25, dtype=torch.float64).exp()
    assert_agree(final, expected, operations=2 * 5 + 2, condition=expected.detach().abs())


def test_equal_writes_approach_the_value_geometrically() -> None:
    T = 6
    keys, beta = _one_hot(*[0] * T, width=1), torch.full((1, T, 1), 0.3, dtype=torch.float64)
    out, _ = gated_delta_rule(keys, keys, torch.ones(1, T, 1, 1, dtype=torch.float64), None, beta, scale=1.0)
    expected = 1 - torch.tensor(0.7, dtype=torch.float64) ** torch.arange(1, T + 1)
    assert_agree(out.flatten(), expected, operations=4 * T, condition=1.0)


def test_no_decay_is_a_log_decay_of_zero() -> None:
    query, key, value, log_decay, beta, state = delta_rule_inputs(2, 5, 1, 2, 3, 4)
    plain = gated_delta_rule(query, key, value, None, beta, scale=0.5, initial_state=state)
    gated = gated_delta_rule(query, key, value, 0 * log_decay, beta, scale=0.5, initial_state=state)
    assert all(torch.equal(a, b) for a, b in zip(plain, gated, strict=True))


def test_a_decay_of_minus_infinity_forgets_everything() -> None:
    query, key, value, _, beta, state = delta_rule_inputs(2, 1, 1, 2, 3, 4)
    forgotten = torch.full((2, 1, 2), -torch.inf, dtype=torch.float64)
    one = gated_delta_rule(query, key, value, forgotten, beta, scale=0.5, initial_state=state)
    other = gated_delta_rule(query, key, value, None, beta, scale=0.5)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_no_initial_state_is_a_state_of_zero() -> None:
    *tokens, state = delta_rule_inputs(2, 5, 1, 2, 3, 4)
    one = gated_delta_rule(*tokens, scale=0.5)
    other = gated_delta_rule(*tokens, scale=0.5, initial_state=0 * state)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_value_heads_read_their_group() -> None:
    query, key, *rest, state = delta_rule_inputs(2, 4, 2, 6, 3, 4)
    repeated = (query.repeat_interleave(3, 2), key.repeat_interleave(3, 2))
    one = gated_delta_rule(query, key, *rest, scale=0.5, initial_state=state)
    other = gated_delta_rule(*repeated, *rest, scale=0.5, initial_state=state)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_normalised_queries_and_keys_are_those_of_l2_norm() -> None:
    query, key, *rest, state = delta_rule_inputs(2, 4, 2, 4, 3, 4)
    one = gated_delta_rule(query, key, *rest, scale=0.5, initial_state=state, normalize_qk=True)
    other = gated_delta_rule(l2_norm(query), l2_norm(key), *rest, scale=0.5, initial_state=state)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("cut", [0, 1, 3, 6])
def test_running_on_from_a_state_is_running_at_once(cut: int) -> None:
    inputs = delta_rule_inputs(2, 6, 1, 2, 3, 4)
    whole = gated_delta_rule(*inputs[:5], scale=0.5, initial_state=inputs.initial_state)
    first = gated_delta_rule(*_tokens(inputs, slice(cut)), scale=0.5, initial_state=inputs.initial_state)
    second = gated_delta_rule(*_tokens(inputs, slice(cut, None)), scale=0.5, initial_state=first.final_state)
    assert torch.equal(torch.cat((first.out, second.out), 1), whole.out)
    assert torch.equal(second.final_state, whole.final_state)


@pytest.mark.parametrize("has_decay", [True, False])
def test_packed_sequences_are_rules_of_their_own(*, has_decay: bool) -> None:
    bounds = [0, 3, 3, 4, 9]
    inputs = delta_rule_inputs(1, 9, 2, 4, 3, 2)
    query, key, value, log_decay, beta, _ = inputs
    decay, states = log_decay if has_decay else None, normal(4, 4, 3, 2, seed=9)
    packed = gated_delta_rule(
        query, key, value, decay, beta, scale=0.5, initial_state=states, cu_seqlens=torch.tensor(bounds)
    )
    for n, (a, b) in enumerate(pairwise(bounds)):
        q, k, v, g, w = _tokens(inputs, slice(a, b))
        single = gated_delta_rule(q, k, v, g if has_decay else None, w, scale=0.5, initial_state=states[n : n + 1])
        assert torch.equal(packed.out[:, a:b], single.out)
        assert torch.equal(packed.final_state[n : n + 1], single.final_state)


def test_an_empty_sequence_keeps_a_copy_of_its_state() -> None:
    *tokens, state = delta_rule_inputs(2, 0, 1, 2, 3, 4)
    out, final = gated_delta_rule(*tokens, scale=0.5, initial_state=state)
    assert out.shape == (2, 0, 2, 4)
    assert torch.equal(final, state)
    assert final.data_ptr() != state.data_ptr()


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 9, 16])
def test_the_chunked_form_agrees_with_its_gradients(chunk: int) -> None:
    inputs = delta_rule_inputs(2, 9, 2, 4, 3, 5)
    ours = gated_delta_rule(*inputs[:5], scale=0.5, initial_state=inputs.initial_state)
    theirs = chunked_delta_rule(*inputs, scale=0.5, chunk=chunk)
    for a, b in zip(ours, theirs, strict=True):
        assert_agree(a, b, operations=9 * 4 * (3 + 3), condition=1 + float(b.detach().abs().max()))
    for a, b in zip(gradients(ours, inputs), gradients(theirs, inputs), strict=True):
        assert_agree(a, b, operations=2 * 9 * 4 * (3 + 3), condition=1 + float(b.abs().max()))


def test_gradients_hold_without_decay() -> None:
    query, key, value, _, beta, state = delta_rule_inputs(1, 3, 1, 2, 2, 2)

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        query, key, value, beta, state = tensors
        return gated_delta_rule(query, key, value, None, beta, scale=0.7, initial_state=state)

    assert_gradcheck(function, (query, key, value, beta, state))


@pytest.mark.parametrize("at_once", [1, 2, 3])
@pytest.mark.parametrize("asked", [None, "query", "key", "initial_state"])
def test_states_that_are_made_again_change_nothing(
    at_once: int, asked: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where only one gradient is asked for, of which the last state may know nothing."""
    inputs = delta_rule_inputs(2, 7, 2, 4, 3, 5)
    tensors = inputs._asdict().items()
    inputs = DeltaRuleInputs(**{name: x.detach().requires_grad_(asked in {None, name}) for name, x in tensors})
    leaves = [x for x in inputs if x.requires_grad]

    def results() -> list[Tensor]:
        out, state = gated_delta_rule(*inputs[:5], scale=0.5, initial_state=inputs.initial_state)
        loss = (out * torch.arange(5.0)).sum() + state.square().sum()
        return [out.detach(), state.detach(), *torch.autograd.grad(loss, leaves)]

    kept = results()
    monkeypatch.setattr(sys.modules["reference.gated_delta_rule"], "_STATE_ELEMENTS", at_once * 2 * 4 * 3 * 5)
    assert all(torch.equal(a, b) for a, b in zip(results(), kept, strict=True))


REFUSALS: list[tuple[dict[str, Any], type[Exception], tuple[str, ...]]] = [
    ({"key": normal(2, 5, 2, 4, seed=0)}, ValueError, ("key", "(2, 5, 2, 4)", "D=3")),
    ({"value": normal(2, 5, 3, 4, seed=0)}, ValueError, ("value", "3 heads", "2 of query")),
    ({"beta": normal(2, 5, 2, seed=0)}, ValueError, ("beta", "(2, 5, 2)", "H=4")),
    ({"beta": None}, TypeError, ("beta", "NoneType", "tensor")),
    ({"log_decay": normal(2, 4, 4, seed=0)}, ValueError, ("log_decay", "(2, 4, 4)", "T=5")),
    ({"log_decay": normal(2, 5, 4, seed=0).float()}, TypeError, ("log_decay", "float32", "float64")),
    ({"initial_state": normal(2, 4, 4, 3, seed=0)}, ValueError, ("initial_state", "(2, 4, 4, 3)", "D=3, V=4")),
    ({"cu_seqlens": torch.tensor([0, 5])}, ValueError, ("query", "batch 2", "1 with cu_seqlens")),
    ({"cu_seqlens": torch.tensor([0, 4])}, ValueError, ("cu_seqlens", "[0, 4]", "5")),
]


@pytest.mark.parametrize(("change", "error", "parts"), REFUSALS)
def test_a_wrong_argument_is_refused(change: dict[str, Any], error: type[Exception], parts: tuple[str, ...]) -> None:
    arguments: dict[str, Any] = {**delta_rule_inputs(2, 5, 2, 4, 3, 4)._asdict(), "scale": 0.5, **change}
    assert_refused(lambda: gated_delta_rule(**arguments), error, *parts)
