"""The tables against the reference's, and their application, whole and partial."""

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

import reference
from optimized.modules import (
    LinearRopeScaling,
    NoRopeScaling,
    NtkRopeScaling,
    RopeScaling,
    RotaryEmbeddingApplicator,
    RotaryEmbeddingProvider,
    YarnRopeScaling,
)
from tests.reference.agree import assert_agree, assert_refused
from tests.reference.draws import normal, tables

Style = Literal["half", "interleaved"]

POSITIONS = 300
WIDTH = 16
IDS = torch.arange(POSITIONS).reshape(2, -1)
TABLE_ROUNDINGS = 6
"""Roundings of an angle and of its cosine: frequency, its exponent, a scaling, product, function, magnitude."""

SCALINGS: dict[str, tuple[RopeScaling | None, dict[str, Any] | None]] = {
    "default": (None, None),
    "none": (NoRopeScaling(), None),
    "linear": (LinearRopeScaling(3.7), {"type": "linear", "factor": 3.7}),
    "ntk": (NtkRopeScaling(4.0), {"type": "ntk", "factor": 4.0}),
    "yarn": (YarnRopeScaling(40.0, 32.0, 1.0, 4096), {"type": "yarn", "factor": 40.0, "original_max_position": 4096}),
    "yarn shrinking": (
        YarnRopeScaling(0.5, 32.0, 1.0, 4096), {"type": "yarn", "factor": 0.5, "original_max_position": 4096},
    ),
    "yarn given": (
        YarnRopeScaling(8.0, 16.0, 2.0, 200, 1.25),
        {
            "type": "yarn", "factor": 8.0, "original_max_position": 200, "beta_fast": 16.0, "beta_slow": 2.0,
            "attention_factor": 1.25,
        },
    ),
}  # fmt: skip


def _provider(style: str = "half", scaling: RopeScaling | None = None) -> RotaryEmbeddingProvider:
    return RotaryEmbeddingProvider(10000, WIDTH, POSITIONS, style, scaling)


def _truth(style: Style = "half", scaling: dict[str, Any] | None = None) -> reference.RopeTables:
    return reference.rope_tables(IDS, rope_dim=WIDTH, base=10000.0, style=style, scaling=scaling)


@pytest.mark.parametrize("style", ["half", "interleaved"])
@pytest.mark.parametrize("name", SCALINGS)
def test_float64_tables_are_those_of_the_reference(name: str, style: Style) -> None:
    ours, theirs = SCALINGS[name]
    for actual, expected in zip(_provider(style, ours).double()(IDS), _truth(style, theirs), strict=True):
        assert_agree(actual, expected, operations=TABLE_ROUNDINGS, condition=float(POSITIONS))


def test_float32_tables_are_rounded_once() -> None:
    for actual, expected in zip(_provider()(IDS), _truth(), strict=True):
        assert torch.equal(actual, expected.float())


def test_positions_of_a_million_tokens_keep_their_digits() -> None:
    last = torch.tensor([[2**20 - 1]])
    provider = RotaryEmbeddingProvider(10000, 2, 2**20, "half").double()
    expected = reference.rope_tables(last, rope_dim=2, base=10000.0, style="half")
    for ours, theirs in zip(provider(last), expected, strict=True):
        assert_agree(ours, theirs, operations=TABLE_ROUNDINGS, condition=2.0**20)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_tables_of_a_16_bit_module_stay_float32(dtype: torch.dtype) -> None:
    for narrow, wide in zip(_provider().to(dtype)(IDS), _provider()(IDS), strict=True):
        assert torch.equal(narrow, wide)


def test_tables_are_wide_again_after_a_detour() -> None:
    for again, wide in zip(_provider().half().double()(IDS), _provider().double()(IDS), strict=True):
        assert torch.equal(again, wide)


def test_tables_are_in_no_state_dict() -> None:
    assert _provider().state_dict() == {}


def test_tables_made_on_the_meta_device_are_whole_after_a_reset() -> None:
    with torch.device("meta"):
        provider = _provider()
    provider.to_empty(device="cpu").reset_parameters()
    for actual, expected in zip(provider(IDS), _provider()(IDS), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("position", [-1, POSITIONS])
def test_a_position_without_a_row_is_refused(position: int) -> None:
    with pytest.raises(IndexError):
        _provider()(torch.tensor([[position]]))


def test_positions_that_are_no_integers_are_refused() -> None:
    assert_refused(lambda: _provider()(torch.ones(1, 2)), TypeError, "position_ids", "torch.float32", "torch.int64")


@pytest.mark.parametrize("style", ["half", "interleaved"])
@pytest.mark.parametrize("backend", ["torch", "eager", None])
def test_the_first_channels_turn_and_the_others_pass(style: Style, backend: str | None) -> None:
    query, key = normal(2, 5, 3, 6, seed=0), normal(2, 5, 1, 6, seed=1)
    cos, sin = tables(2, 5, 4, style=style, seed=2)
    turned = RotaryEmbeddingApplicator(style, backend=backend)(query, key, cos, sin)
    for before, after in zip((query, key), turned, strict=True):
        expected = reference.rope(before[..., :4], cos, sin, style=style)
        assert_agree(after[..., :4], expected, operations=3, condition=2 * before.detach().abs().max())
        assert torch.equal(after[..., 4:], before[..., 4:])


def test_queries_keep_their_dtype_beside_wider_tables() -> None:
    x = normal(1, 2, 1, 4, seed=0).bfloat16()
    query, key = RotaryEmbeddingApplicator("half")(x, x, *_tables_of(torch.float32))
    assert (query.dtype, key.dtype) == (torch.bfloat16, torch.bfloat16)


def _tables_of(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    cos, sin = tables(1, 2, 4, style="half", seed=1)
    return cos.to(dtype), sin.to(dtype)


X = torch.zeros(2, 3, 1, 4)
TABLE = torch.zeros(2, 3, 4)

REFUSED: dict[str, tuple[Callable[[], object], tuple[str, ...]]] = {
    "wide": (
        lambda: RotaryEmbeddingApplicator("half")(X, X, torch.zeros(2, 3, 6), torch.zeros(2, 3, 6)),
        ("position_embedding_cos", "6 channels", "up to 4"),
    ),
    "odd": (
        lambda: RotaryEmbeddingApplicator("half")(X, X, torch.zeros(2, 3, 3), torch.zeros(2, 3, 3)),
        ("position_embedding_cos", "3 channels", "even"),
    ),
    "tokens": (
        lambda: RotaryEmbeddingApplicator("half")(X, X, TABLE[:, :2], TABLE), ("position_embedding_cos", "(2, 2, 4)"),
    ),
    "sine": (
        lambda: RotaryEmbeddingApplicator("half")(X, X, TABLE, TABLE[..., :2]),
        ("position_embedding_sin", "(2, 3, 2)"),
    ),
    "axes": (lambda: RotaryEmbeddingApplicator("half")(X, X[0], TABLE, TABLE), ("key_states", "(3, 1, 4)")),
    "linear": (lambda: LinearRopeScaling(0.0), ("factor", "0.0")),
    "ntk": (lambda: NtkRopeScaling(-1.0), ("factor", "-1.0")),
    "ramp": (lambda: YarnRopeScaling(2.0, 1.0, 32.0, 64), ("beta_fast", "1.0", "beta_slow=32.0")),
    "context": (lambda: YarnRopeScaling(2.0, 32.0, 1.0, 0), ("original_max_position_embeddings", "0")),
    "magnitude": (lambda: YarnRopeScaling(2.0, 32.0, 1.0, 64, 0.0), ("attention_factor", "0.0")),
    "two channels": (lambda: RotaryEmbeddingProvider(1e4, 2, 8, "half", NtkRopeScaling(2.0)), ("rope_dim", "2")),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_bad_arguments_are_refused_with_a_sentence(case: str) -> None:
    call, parts = REFUSED[case]
    assert_refused(call, ValueError, *parts)


def test_a_scaling_that_is_a_mapping_is_refused() -> None:
    scaling: Any = {"type": "linear", "factor": 2.0}
    assert_refused(lambda: _provider(scaling=scaling), TypeError, "rope_scaling", "dict", "RopeScaling")
