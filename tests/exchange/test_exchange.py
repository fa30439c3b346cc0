"""transformers' layers and ours, with each other's parameters: one output, and one gradient of everything.

Legend: B batch, T tokens, C channels.
"""

import pytest
import torch
from torch import Tensor

from tests.exchange.agreement import AGREEMENT, distance, normal, padding, random_state
from tests.exchange.exchange import SIDES, Exchange, Side
from tests.exchange.exchanges import EXCHANGES

B = 2

every_layer = pytest.mark.parametrize("name", EXCHANGES)
both_of_ours = pytest.mark.parametrize("side", SIDES)


def inputs(exchange: Exchange) -> tuple[Tensor, Tensor]:
    """Returns random hidden states and the cotangent of the output, each ``(B, T, C)``."""
    shape = (B, exchange.num_tokens, exchange.hidden_size)
    return normal(*shape, seed=1), normal(*shape, seed=2)


@both_of_ours
@every_layer
def test_parameters_of_transformers_give_its_output_and_gradients_in_ours(name: str, side: Side) -> None:
    exchange = EXCHANGES[name]
    peer, (hidden, cotangent) = exchange.make_peer(), inputs(exchange)
    state = random_state(peer.layer.state_dict(), seed=3)
    expected = peer.trial(state, hidden, cotangent).renamed(exchange.from_peer)
    actual = exchange.trial(side, exchange.from_peer(state), hidden, cotangent)
    assert distance(actual, expected) <= AGREEMENT


@both_of_ours
@every_layer
def test_our_parameters_give_our_output_and_gradients_in_transformers(name: str, side: Side) -> None:
    exchange = EXCHANGES[name]
    peer, (hidden, cotangent) = exchange.make_peer(), inputs(exchange)
    state = random_state(exchange.make_module(**exchange.options).state_dict(), seed=4)
    expected = exchange.trial(side, state, hidden, cotangent).renamed(exchange.to_peer)
    actual = peer.trial(exchange.to_peer(state), hidden, cotangent)
    assert distance(actual, expected) <= AGREEMENT


@pytest.mark.parametrize("padded", ["left", "right"])
@both_of_ours
@every_layer
def test_padding_is_hidden_alike(name: str, side: Side, padded: str) -> None:
    exchange = EXCHANGES[name]
    peer, (hidden, cotangent) = exchange.make_peer(), inputs(exchange)
    tokens = padding(B, exchange.num_tokens, side=padded)
    compared = None if exchange.is_same_without_keys else tokens
    if compared is not None:
        cotangent *= compared[..., None]
    state = random_state(peer.layer.state_dict(), seed=5)
    expected = peer.trial(state, hidden, cotangent, tokens).renamed(exchange.from_peer)
    actual = exchange.trial(side, exchange.from_peer(state), hidden, cotangent, tokens)
    assert distance(actual, expected, tokens=compared) <= AGREEMENT


@every_layer
def test_a_state_dict_comes_back_bit_by_bit(name: str) -> None:
    exchange = EXCHANGES[name]
    state = random_state(exchange.make_peer().layer.state_dict(), seed=6)
    returned = exchange.to_peer(exchange.from_peer(state))
    assert returned.keys() == state.keys()
    assert [key for key in state if not torch.equal(returned[key], state[key])] == []
