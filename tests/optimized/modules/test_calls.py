"""What a module refuses when it is called: one sentence, before it computes anything."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimized import backends
from optimized.modules import LogSigmoidDecayGate, MambaDecayGate, RotaryEmbeddingApplicator
from tests.optimized.modules.layers import EXAMPLES, LAYERS

Arguments = tuple[Any, ...]
Refusal = tuple[str, Callable[[Arguments], Arguments], type[Exception], str]

DTYPE = "got dtype torch.float32, expected torch.float64, that of the parameters"
MASK = "attention_mask: got dtype torch.float32, expected a boolean key mask (True = may be seen)"
NO_MASK = "attention_mask: got list, expected None or a boolean key mask (2, 4)"
PAIR = "expected a pair (cos, sin)"
PROJECTED = ("grouped_query_attention", "multi_head_latent_attention", "gated_delta_net")
ROTATED = PROJECTED[:2]


def _with(index: int, argument: object) -> Callable[[Arguments], Arguments]:
    """Returns a change of one argument of a call."""
    return lambda call: (*call[:index], argument, *call[index + 1 :])


def _changed(index: int, change: Callable[[Any], object]) -> Callable[[Arguments], Arguments]:
    """Returns a change of one argument of a call that depends on what it was."""
    return lambda call: _with(index, change(call[index]))(call)


def _narrow_sines(tables: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return tables[0], tables[1][..., :2]


def _whole_cosines(tables: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return tables[0].long(), tables[1]


CALLS: list[Refusal] = [
    ("low_rank_projection", _with(0, 1.0), TypeError, "x: got float, expected a tensor (..., 5)"),
    (
        "low_rank_projection", _changed(0, lambda x: x[..., :4]), ValueError,
        "x: got shape (2, 4, 4), expected (..., 5)",
    ),
    ("low_rank_projection", _changed(0, Tensor.float), TypeError, f"x: {DTYPE}"),
    ("flash_sdpa", _with(0, None), TypeError, "query_states: got NoneType, expected a tensor (B, T, H, D)"),
    ("flash_sdpa", _with(3, torch.zeros(2, 4)), TypeError, MASK),
    ("flash_sdpa", _with(3, [[True] * 4] * 2), TypeError, NO_MASK),
    (
        "flash_sdpa", _with(3, torch.ones(2, 1, 4, 4, dtype=torch.bool)), ValueError,
        "attention_mask: got shape (2, 1, 4, 4), expected (2, 4)",
    ),
    ("flash_sdpa", _with(4, argument=False), ValueError, "is_causal: got False, expected True with window_size=2"),
    (
        "flash_sdpa", _changed(0, lambda x: x[:, :, :2]), ValueError,
        "query_states: got shape (2, 4, 2, 3), expected (B, T, 4, D)",
    ),
    (
        "flash_sdpa", _changed(0, lambda x: x[:, :, :3]), ValueError,
        "query_states heads: got 3, expected a multiple of 2",
    ),
    (
        "flash_sdpa", _changed(1, lambda x: x[..., :2]), ValueError,
        "key_states: got shape (2, 4, 2, 2), expected (2, S, G, 3)",
    ),
    (
        "flash_sdpa", _changed(2, lambda x: x[:, :3]), ValueError,
        "value_states: got shape (2, 3, 2, 5), expected (2, 4, 2, V)",
    ),
    (
        "gated_delta_net", _with(1, torch.ones(2, 1, 4, 4)), ValueError,
        "attention_mask: got shape (2, 1, 4, 4), expected (2, 4)",
    ),
    ("gated_delta_net", _with(1, [[True] * 4] * 2), TypeError, "attention_mask: got list, expected a tensor (2, 4)"),
]  # fmt: skip


def _of_projected(name: str) -> list[Refusal]:
    """Returns what every layer with projections says of its hidden states."""
    hidden, width = EXAMPLES[name].inputs[0], LAYERS[name].config["hidden_size"]
    expected = f"(B, T, {width})"
    return [
        (name, _with(0, "tokens"), TypeError, f"hidden_states: got str, expected a tensor {expected}"),
        (name, _with(0, hidden[0]), ValueError, f"hidden_states: got shape (4, {width}), expected {expected}"),
        (name, _with(0, hidden[..., :4]), ValueError, f"hidden_states: got shape (2, 4, 4), expected {expected}"),
        (name, _with(0, hidden.float()), TypeError, f"hidden_states: {DTYPE}"),
    ]


def _of_rotated(name: str) -> list[Refusal]:
    """Returns what every layer with softmax attention says of its mask and of its tables."""
    return [
        (name, _with(1, torch.zeros(2, 4)), TypeError, MASK),
        (name, _with(1, [[True] * 4] * 2), TypeError, NO_MASK),
        (
            name, _with(1, torch.ones(2, 3, dtype=torch.bool)), ValueError,
            "attention_mask: got shape (2, 3), expected (2, 4)",
        ),
        (name, _changed(2, lambda pair: pair[0]), TypeError, f"position_embeddings: got Tensor, {PAIR}"),
        (name, _with(2, None), TypeError, f"position_embeddings: got NoneType, {PAIR}"),
        (name, _changed(2, lambda pair: pair[:1]), ValueError, f"position_embeddings: got 1 parts, {PAIR}"),
        (
            name, _with(2, (1.0, 0.0)), TypeError,
            "position_embeddings[0]: got float, expected a tensor (2, 4, 4)",
        ),
        (
            name, _changed(2, _narrow_sines), ValueError,
            "position_embeddings[1]: got shape (2, 4, 2), expected (2, 4, 4)",
        ),
        (
            name, _changed(2, _whole_cosines), TypeError,
            "position_embeddings[0]: got dtype torch.int64, expected a floating-point one",
        ),
    ]  # fmt: skip


CALLS += [refusal for name in PROJECTED for refusal in _of_projected(name)]
CALLS += [refusal for name in ROTATED for refusal in _of_rotated(name)]


def _work(*_: object, **__: object) -> None:
    raise AssertionError("a refused call computed something")


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes projections and operations fail."""
    monkeypatch.setattr(nn.Linear, "forward", _work)
    monkeypatch.setattr(backends, "_OPERATIONS", {})


def _refused(sentence: str, error: type[Exception] = ValueError) -> Any:
    return pytest.raises(error, match=f"^{re.escape(sentence)}$")


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(("name", "change", "error", "sentence"), CALLS)
def test_a_layer_refuses_in_one_sentence_before_any_work(
    name: str, change: Callable[[Arguments], Arguments], error: type[Exception], sentence: str
) -> None:
    module = LAYERS[name].module(**LAYERS[name].config).double()
    with _refused(sentence, error):
        module(*change(EXAMPLES[name].inputs))


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("gate", [MambaDecayGate(4, 2), LogSigmoidDecayGate(4, 2)], ids=["mamba", "logsigmoid"])
@pytest.mark.parametrize(
    ("x", "error", "sentence"),
    [
        (torch.ones(1, 3, 5), ValueError, "x: got shape (1, 3, 5), expected (B, T, 4)"),
        (torch.ones(3, 4), ValueError, "x: got shape (3, 4), expected (B, T, 4)"),
        (
            torch.ones(1, 3, 4, dtype=torch.bfloat16), TypeError,
            "x: got dtype torch.bfloat16, expected torch.float32, that of the parameters",
        ),
    ],
)  # fmt: skip
def test_a_decay_gate_refuses_in_one_sentence_before_any_work(
    gate: nn.Module, x: Tensor, error: type[Exception], sentence: str
) -> None:
    with _refused(sentence, error):
        gate(x)


@pytest.mark.usefixtures("no_work")
def test_an_applicator_looks_at_the_keys_before_it_turns_the_queries() -> None:
    x, table = torch.zeros(2, 3, 1, 4), torch.zeros(2, 3, 4)
    with _refused("key_states: got shape (3, 1, 4), expected (B, T, H, D)"):
        RotaryEmbeddingApplicator("half")(x, x[0], table, table)


def _under_autocast(name: str, inputs: Sequence[Any], dtype: torch.dtype) -> Tensor:
    module = LAYERS[name].module(**LAYERS[name].config)
    with torch.autocast("cpu", torch.bfloat16):
        out: Tensor = module(*replace(EXAMPLES[name], inputs=tuple(inputs)).of(dtype))
    return out


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["low_rank_projection", *PROJECTED])
def test_autocast_takes_narrower_hidden_states_than_parameters(name: str, dtype: torch.dtype) -> None:
    assert _under_autocast(name, EXAMPLES[name].inputs, dtype).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
@pytest.mark.parametrize("name", PROJECTED)
def test_autocast_does_not_take_what_it_does_not_narrow(name: str, dtype: torch.dtype) -> None:
    first, *others = EXAMPLES[name].inputs
    sentence = f"hidden_states: got dtype {dtype}, expected torch.float32, that of the parameters"
    with _refused(sentence, TypeError):
        _under_autocast(name, (first.to(dtype), *others), torch.float64)
