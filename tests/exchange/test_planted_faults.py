"""Conversions and conventions, wrong on purpose: each is far from transformers, so agreement means something."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.exchange import gpt_oss, qwen3
from tests.exchange.agreement import FAULT, State, normal, output_distance, random_state
from tests.exchange.exchanges import EXCHANGES

Spoil = Callable[[State], dict[str, Tensor]]


def swapped(first: str, second: str) -> Spoil:
    """Returns a conversion that exchanges two parameters of one shape."""
    return lambda state: {**state, first: state[second], second: state[first]}


def rolled(name: str, rows: int) -> Spoil:
    """Returns a conversion that moves the rows of a parameter on, the last ones to the front."""
    return lambda state: {**state, name: state[name].roll(rows, 0)}


def mapped(name: str, change: Callable[[Tensor], Tensor]) -> Spoil:
    """Returns a conversion that changes one parameter."""
    return lambda state: {**state, name: change(state[name])}


def queries_first_gates_last(state: State) -> dict[str, Tensor]:
    """Returns what one gets who takes ``q_proj`` for ``[all queries | all gates]``."""
    query, gate = EXCHANGES["qwen3-next-attention"].to_peer(state)["q_proj.weight"].chunk(2)
    return {**state, "q_proj.weight": query, "gate_proj.weight": gate}


def groups_in_a_row(state: State) -> dict[str, Tensor]:
    """Returns what one gets who takes ``in_proj_qkvz`` for ``[q | k | v | z]`` over all heads."""
    theirs = EXCHANGES["qwen3-next-delta-net"].to_peer(state)["in_proj_qkvz.weight"]
    rows = state["qkv_proj.weight"].shape[0]
    return {**state, "qkv_proj.weight": theirs[:rows], "g_proj.weight": theirs[rows:]}


CONVERSIONS: dict[str, tuple[str, Spoil]] = {
    "qwen3: norms of q and k swapped": ("qwen3", swapped("q_norm.weight", "k_norm.weight")),
    "qwen3: k and v swapped": ("qwen3", swapped("k_proj.weight", "v_proj.weight")),
    "qwen3: key heads moved on by one": ("qwen3", rolled("k_proj.weight", 8)),
    "gated attention: gate for query": ("qwen3-next-attention", swapped("q_proj.weight", "gate_proj.weight")),
    "gated attention: all queries, then all gates": ("qwen3-next-attention", queries_first_gates_last),
    "delta net: decay for beta": ("qwen3-next-delta-net", swapped("b_proj.weight", "decay_gate.proj.weight")),
    "delta net: A_log for dt_bias": ("qwen3-next-delta-net", swapped("decay_gate.A_log", "decay_gate.dt_bias")),
    "delta net: q and k swapped": (
        "qwen3-next-delta-net",
        mapped("qkv_proj.weight", lambda rows: torch.cat((rows[16:32], rows[:16], rows[32:]))),
    ),
    "delta net: taps reversed": ("qwen3-next-delta-net", mapped("qkv_conv1d.weight", lambda taps: taps.flip(-1))),
    "delta net: rows not taken apart by heads": ("qwen3-next-delta-net", groups_in_a_row),
    "deepseek: rope key before the latent": ("deepseek-v3", rolled("kv_down_proj.weight", 6)),
    "deepseek: values before keys": (
        "deepseek-v2",
        mapped("kv_up_proj.weight", lambda rows: rows.view(3, 18, -1).roll(10, 1).flatten(0, 1)),
    ),
    "gpt-oss: sinks of other heads": ("gpt-oss", rolled("sdpa.sinks", 1)),
}

CONVENTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3: pairs interleaved": ("qwen3", {"rope_style": "interleaved"}),
    "qwen3: weight around zero": ("qwen3", {"qk_norm_zero_centered": True}),
    "qwen3: window of W before the token": ("qwen3-sliding", {"window_size": qwen3.SLIDING_WINDOW}),
    "gated attention: weight around one": ("qwen3-next-attention", {"qk_norm_zero_centered": False}),
    "gated attention: pairs interleaved": ("qwen3-next-attention", {"rope_style": "interleaved"}),
    "delta net: eps of the norm": ("qwen3-next-delta-net", {"norm_eps": 1e-6}),
    "deepseek-v2: halves": ("deepseek-v2", {"rope_style": "half"}),
    "deepseek-v3: halves": ("deepseek-v3", {"rope_style": "half"}),
    "deepseek-v3: interleaved where it has halves": ("deepseek-v3-halves", {"rope_style": "interleaved"}),
    "deepseek: eps of the configuration": ("deepseek-v3", {"qk_down_norm_eps": 0.5}),
    "gpt-oss: window of W before the token": ("gpt-oss-sliding", {"window_size": gpt_oss.SLIDING_WINDOW}),
}


def output_distance_from_peer(name: str, spoil: Spoil, changes: dict[str, Any]) -> float:
    """Returns how far the output of our reference, spoiled, is from transformers'."""
    exchange = EXCHANGES[name]
    shape = (2, exchange.num_tokens, exchange.hidden_size)
    hidden, cotangent = normal(*shape, seed=1), normal(*shape, seed=2)
    peer = exchange.make_peer()
    state = random_state(peer.layer.state_dict(), seed=3)
    expected = peer.trial(state, hidden, cotangent)
    actual = exchange.reference_trial(spoil(exchange.from_peer(state)), hidden, cotangent, **changes)
    return output_distance(actual, expected)


@pytest.mark.parametrize("fault", CONVERSIONS)
def test_a_wrong_conversion_is_far_from_transformers(fault: str) -> None:
    name, spoil = CONVERSIONS[fault]
    assert output_distance_from_peer(name, spoil, {}) > FAULT


@pytest.mark.parametrize("fault", CONVENTIONS)
def test_a_wrong_convention_is_far_from_transformers(fault: str) -> None:
    name, changes = CONVENTIONS[fault]
    assert output_distance_from_peer(name, dict, changes) > FAULT
