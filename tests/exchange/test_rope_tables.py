"""transformers' rotary tables and ours, with every scaling that both have.

Legend: T positions, R rotated channels.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

import reference
from optimized.modules import (
    LinearRopeScaling,
    NtkRopeScaling,
    RopeScaling,
    RotaryEmbeddingProvider,
    YarnRopeScaling,
)
from tests.exchange.agreement import AGREEMENT, FAULT
from tests.exchange.float64 import forced_float64
from tests.exchange.peers import transformers

BASE = 1e4
ROPE_DIM = 16
CONTEXT = 32
FACTOR = 4
YARN: dict[str, Any] = {
    "factor": float(FACTOR),
    "original_max_position_embeddings": CONTEXT,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
}

SCALINGS: dict[str, tuple[dict[str, Any], RopeScaling | None]] = {
    "none": ({"rope_type": "default"}, None),
    "linear": ({"rope_type": "linear", "factor": float(FACTOR)}, LinearRopeScaling(FACTOR)),
    # transformers stretches the base with the length of the sequence, here CONTEXT * FACTOR tokens.
    "ntk": ({"rope_type": "dynamic", "factor": 1.0}, NtkRopeScaling(FACTOR)),
    "yarn": ({"rope_type": "yarn", **YARN}, YarnRopeScaling(**YARN)),
    # DeepSeek: both magnitudes are the same, so the tables have none; see the test of the logits' factor.
    "yarn without magnitude": (
        {"rope_type": "yarn", **YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
        YarnRopeScaling(**YARN, attention_factor=1.0),
    ),
}

every_scaling = pytest.mark.parametrize("name", SCALINGS)


def peer_tables(parameters: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Returns transformers' cosines and sines ``(T, R)`` for ``CONTEXT * FACTOR`` positions."""
    model = transformers("models.qwen3.modeling_qwen3")
    with forced_float64():
        config = model.Qwen3Config(
            head_dim=ROPE_DIM,
            max_position_embeddings=CONTEXT,
            rope_parameters={"rope_theta": BASE, **parameters},
        )
        cos, sin = model.Qwen3RotaryEmbedding(config)(torch.zeros(1), torch.arange(CONTEXT * FACTOR)[None])
    return cos[0], sin[0]


def far(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    """Returns the largest difference of two pairs of tables; a NaN in any of them makes it NaN."""
    return float(torch.stack([(a - b).abs() for a, b in zip(first, second, strict=True)]).max())


@every_scaling
def test_the_reference_has_the_tables_of_transformers(name: str) -> None:
    parameters, scaling = SCALINGS[name]
    options = None if scaling is None else scaling.options
    positions = torch.arange(CONTEXT * FACTOR)
    ours = reference.rope_tables(positions, rope_dim=ROPE_DIM, base=BASE, style="half", scaling=options)
    assert far(ours, peer_tables(parameters)) <= AGREEMENT


@every_scaling
def test_the_provider_has_the_tables_of_transformers(name: str) -> None:
    parameters, scaling = SCALINGS[name]
    provider = RotaryEmbeddingProvider(BASE, ROPE_DIM, CONTEXT * FACTOR, "half", scaling).double()
    assert far(provider(torch.arange(CONTEXT * FACTOR)), peer_tables(parameters)) <= AGREEMENT


@pytest.mark.parametrize("name", [name for name in SCALINGS if name != "none"])
def test_without_its_scaling_a_table_is_far_from_transformers(name: str) -> None:
    ours = reference.rope_tables(torch.arange(CONTEXT * FACTOR), rope_dim=ROPE_DIM, base=BASE, style="half")
    assert far(ours, peer_tables(SCALINGS[name][0])) > FAULT
