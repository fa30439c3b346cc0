from typing import Any

import pytest
import torch
from torch import Tensor

from reference import Window, attention, varlen_attention
from tests.reference.agree import assert_agree, assert_refused, gradients
from tests.reference.draws import normal

Q_BOUNDS, K_BOUNDS = [0, 3, 3, 4, 6], [0, 2, 5, 5, 9]


def _inputs() -> list[Tensor]:
    return [normal(6, 4, 3, seed=0), normal(9, 2, 3, seed=1), normal(9, 2, 5, seed=2), normal(4, seed=3)]


@pytest.mark.parametrize("window", [(None, None), (None, 0), (1, 0), (0, 1)])
@pytest.mark.parametrize("has_sinks", [True, False])
def test_packed_sequences_are_attentions_of_their_own(window: Window, *, has_sinks: bool) -> None:
    query, key, value, sinks = _inputs()
    used = sinks if has_sinks else None
    inputs = [query, key, value, *([sinks] if has_sinks else [])]
    packed = varlen_attention(
        query, key, value, torch.tensor(Q_BOUNDS), torch.tensor(K_BOUNDS), scale=0.5, window=window, sinks=used
    )
    q_parts, k_parts, v_parts = (
        x.tensor_split(bounds[1:-1]) for x, bounds in ((query, Q_BOUNDS), (key, K_BOUNDS), (value, K_BOUNDS))
    )
    single = [
        attention(q[None], k[None], v[None], scale=0.5, window=window, sinks=used)
        for q, k, v in zip(q_parts, k_parts, v_parts, strict=True)
    ]
    separate = (torch.cat([s.out for s in single], 1)[0], torch.cat([s.lse for s in single], 2)[0])
    assert all(torch.equal(a, b) for a, b in zip(packed, separate, strict=True))
    for a, b in zip(gradients(packed, inputs), gradients(separate, inputs), strict=True):
        assert_agree(a, b, operations=6, condition=1 + float(b.abs().max()))


def test_a_block_diagonal_mask_over_all_tokens_agrees() -> None:
    query, key, value, sinks = _inputs()
    q_of = torch.repeat_interleave(torch.arange(4), torch.tensor(Q_BOUNDS).diff())
    k_of = torch.repeat_interleave(torch.arange(4), torch.tensor(K_BOUNDS).diff())
    bias = torch.zeros(6, 9, dtype=torch.float64).masked_fill(q_of[:, None] != k_of[None], -torch.inf)
    packed = varlen_attention(query, key, value, torch.tensor(Q_BOUNDS), torch.tensor(K_BOUNDS), scale=0.5, sinks=sinks)
    masked = attention(query[None], key[None], value[None], scale=0.5, sinks=sinks, bias=bias)
    assert_agree(packed.out, masked.out[0], operations=9 + 10, condition=float(value.detach().abs().max()))
    assert_agree(packed.lse, masked.lse[0], operations=9 + 4, condition=4.0)


def test_queries_without_keys_see_nothing() -> None:
    query, key, value, _ = _inputs()
    out, lse = varlen_attention(query, key, value, torch.tensor(Q_BOUNDS), torch.tensor(K_BOUNDS), scale=0.5)
    assert not out[3].any()
    assert lse[:, 3].eq(-torch.inf).all()


def test_int32_offsets_are_legal() -> None:
    query, key, value, _ = _inputs()
    bounds = [torch.tensor(b, dtype=torch.int32) for b in (Q_BOUNDS, K_BOUNDS)]
    wide = varlen_attention(query, key, value, *(b.long() for b in bounds), scale=0.5)
    assert torch.equal(varlen_attention(query, key, value, *bounds, scale=0.5).out, wide.out)


REFUSALS: list[tuple[dict[str, Any], type[Exception], tuple[str, ...]]] = [
    ({"cu_seqlens_q": torch.tensor([0, 5])}, ValueError, ("cu_seqlens_q", "[0, 5]", "6")),
    ({"cu_seqlens_q": torch.tensor([1, 6])}, ValueError, ("cu_seqlens_q", "[1, 6]", "from 0")),
    ({"cu_seqlens_k": torch.tensor([0, 7, 5, 9])}, ValueError, ("cu_seqlens_k", "[0, 7, 5, 9]", "non-decreasing")),
    ({"cu_seqlens_k": torch.tensor([0, 5, 9])}, ValueError, ("cu_seqlens_k", "3 entries", "5")),
    ({"cu_seqlens_k": torch.tensor([0.0, 9.0])}, TypeError, ("cu_seqlens_k", "float32", "int32")),
    ({"cu_seqlens_k": torch.tensor([[0, 9]])}, ValueError, ("cu_seqlens_k", "(1, 2)", "num_sequences + 1")),
    ({"cu_seqlens_k": [0, 9]}, TypeError, ("cu_seqlens_k", "list", "tensor")),
    ({"cu_seqlens_k": torch.tensor([0, 9], device="meta")}, ValueError, ("cu_seqlens_k", "meta", "cpu")),
    ({"query": normal(1, 6, 4, 3, seed=0)}, ValueError, ("query", "(1, 6, 4, 3)", "(tokens, H, D)")),
    ({"key": normal(9, 3, 3, seed=0), "value": normal(9, 3, 5, seed=0)}, ValueError, ("query", "4", "3")),
    ({"window": (None, -2)}, ValueError, ("window", "(None, -2)", "negative")),
    ({"sinks": normal(3, seed=0)}, ValueError, ("sinks", "(3,)", "H=4")),
]


@pytest.mark.parametrize(("change", "error", "parts"), REFUSALS)
def test_a_wrong_argument_is_refused(change: dict[str, Any], error: type[Exception], parts: tuple[str, ...]) -> None:
    query, key, value, _ = _inputs()
    arguments: dict[str, Any] = {
        "query": query,
        "key": key,
        "value": value,
        "cu_seqlens_q": torch.tensor(Q_BOUNDS),
        "cu_seqlens_k": torch.tensor(K_BOUNDS),
        "scale": 0.5,
        **change,
    }
    assert_refused(lambda: varlen_attention(**arguments), error, *parts)
