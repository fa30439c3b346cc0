"""DeepSeek's YaRN scales the logits too: with that factor in the queries, our layer computes the same."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from optimized.modules import RotaryEmbeddingProvider, YarnRopeScaling
from tests.exchange.agreement import AGREEMENT, FAULT, State, normal, output_distance, random_state, run_module
from tests.exchange.deepseek import EXCHANGES, YARN, fold_logit_factor, make_peer_v3

B, T = 2, 9


def distance_from_peer(name: str, convert: Callable[[State], dict[str, Tensor]]) -> float:
    """Returns how far the output of our module with converted parameters is from transformers'."""
    exchange = EXCHANGES[name]
    hidden, cotangent = (normal(B, T, exchange.hidden_size, seed=seed) for seed in (1, 2))
    peer = make_peer_v3(exchange.options["q_lora_rank"], rope_parameters=YARN)
    state = random_state(peer.layer.state_dict(), seed=3)

    assert exchange.rope is not None
    scaling = YarnRopeScaling(
        factor=YARN["factor"],
        beta_fast=YARN["beta_fast"],
        beta_slow=YARN["beta_slow"],
        original_max_position_embeddings=YARN["original_max_position_embeddings"],
        attention_factor=1.0,
    )
    provider = RotaryEmbeddingProvider(exchange.rope.base, exchange.rope.rope_dim, T, exchange.rope.style, scaling)
    tables = provider.double()(torch.arange(T).expand(B, T))
    module = exchange.make_module(**exchange.options).double()
    ours = run_module(module, lambda x: module(x, None, tables), convert(exchange.from_peer(state)), hidden, cotangent)
    return output_distance(ours, peer.trial(state, hidden, cotangent))


def folded(state: State) -> dict[str, Tensor]:
    return fold_logit_factor(state, factor=YARN["factor"], mscale_all_dim=YARN["mscale_all_dim"])


both_kinds_of_queries = pytest.mark.parametrize("name", ["deepseek-v3", "deepseek-v3-full-queries"])


@both_kinds_of_queries
def test_the_factor_of_the_logits_fits_into_the_queries(name: str) -> None:
    assert distance_from_peer(name, folded) <= AGREEMENT


@both_kinds_of_queries
def test_without_the_factor_of_the_logits_the_output_is_far_away(name: str) -> None:
    assert distance_from_peer(name, dict) > FAULT
