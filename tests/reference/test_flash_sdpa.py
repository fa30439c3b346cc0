from typing import Any

import pytest
import torch
from torch import Tensor

from reference import Window, attention, flash_sdpa
from tests.reference.agree import assert_agree, assert_refused
from tests.reference.draws import normal


def _inputs() -> tuple[Tensor, Tensor, Tensor]:
    return normal(2, 4, 4, 3, seed=0), normal(2, 6, 2, 3, seed=1), normal(2, 6, 2, 5, seed=2)


@pytest.mark.parametrize(
    ("is_causal", "window_size", "window"),
    [(False, None, (None, None)), (True, None, (None, 0)), (True, 2, (2, 0)), (True, 0, (0, 0))],
)
def test_its_window_is_that_of_attention(*, is_causal: bool, window_size: int | None, window: Window) -> None:
    layer = flash_sdpa(*_inputs(), None, {}, is_causal=is_causal, scale=0.5, window_size=window_size)
    assert torch.equal(layer, attention(*_inputs(), scale=0.5, window=window).out)


def test_a_window_of_zero_returns_the_values() -> None:
    query, key, value = _inputs()
    out = flash_sdpa(query, key, value, None, {}, is_causal=True, scale=0.5, window_size=0)
    assert torch.equal(out, value[:, 2:].repeat_interleave(2, 2))


def test_sinks_are_those_of_attention() -> None:
    sinks = normal(4, seed=3)
    layer = flash_sdpa(*_inputs(), None, {"sinks": sinks}, is_causal=False, scale=0.5, num_sinks=4)
    assert torch.equal(layer, attention(*_inputs(), scale=0.5, sinks=sinks).out)


def test_a_key_mask_removes_keys() -> None:
    query, key, value = _inputs()
    mask = torch.tensor([[True, True, False, True, True, False]]).expand(2, 6)
    masked = flash_sdpa(query, key, value, mask, {}, is_causal=False, scale=0.5)
    left = flash_sdpa(query, key[:, mask[0]], value[:, mask[0]], None, {}, is_causal=False, scale=0.5)
    assert_agree(masked, left, operations=2 * 6 + 8, condition=float(value.detach().abs().max()))


REFUSALS: list[tuple[dict[str, Any], type[Exception], tuple[str, ...]]] = [
    ({"window_size": -1}, ValueError, ("window_size", "-1", "not negative")),
    ({"window_size": 2, "is_causal": False}, ValueError, ("is_causal", "False", "True")),
    ({"num_sinks": 3, "parameters": {"sinks": normal(3, seed=3)}}, ValueError, ("num_sinks", "3", "4")),
    ({"num_sinks": 4}, ValueError, ("parameters", "[]", "sinks")),
    ({"parameters": {"sinks": normal(4, seed=3)}}, ValueError, ("parameters", "sinks", "[]")),
    ({"attention_mask": torch.zeros(2, 6)}, TypeError, ("attention_mask", "float32", "boolean key mask")),
    ({"attention_mask": torch.ones(2, 1, 4, 6, dtype=torch.bool)}, ValueError, ("attention_mask", "(2, 1, 4, 6)")),
    ({"attention_mask": "causal"}, TypeError, ("attention_mask", "str", "boolean key mask")),
]


@pytest.mark.parametrize(("change", "error", "parts"), REFUSALS)
def test_a_wrong_argument_is_refused(change: dict[str, Any], error: type[Exception], parts: tuple[str, ...]) -> None:
    tensors = dict(zip(("query_states", "key_states", "value_states"), _inputs(), strict=True))
    rest: dict[str, Any] = {"attention_mask": None, "parameters": {}, "is_causal": True, "scale": 0.5}
    arguments = {**tensors, **rest, **change}
    assert_refused(lambda: flash_sdpa(**arguments), error, *parts)
