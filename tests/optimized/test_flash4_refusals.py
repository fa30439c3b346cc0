"""What the adapter to FlashAttention 4 declines, said by ``supports`` and raised by the call.

Letters: D query/key head width, V value head width.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from optimized.flash4 import attention, kernels, supports, supports_varlen, varlen_attention
from tests.optimized import flash4_stand_in
from tests.optimized.refusals import assert_refused

WITHOUT_GPU = "device: got cpu, expected cuda: FlashAttention 4 runs on GPUs only"


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    flash4_stand_in.install(monkeypatch)


def _call(*, D: int = 64, V: int = 64, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    return [torch.zeros(1, 4, 2, width, dtype=dtype) for width in (D, D, V)]


def test_without_a_gpu_every_call_is_refused() -> None:
    assert_refused(attention, supports, *_call(), scale=1.0, sentence=WITHOUT_GPU)


def test_without_a_gpu_every_packed_call_is_refused() -> None:
    query, key, value = (tensor[0] for tensor in _call())
    offsets = torch.tensor([0, 4])
    assert_refused(
        varlen_attention, supports_varlen, query, key, value, offsets, offsets, scale=1.0, sentence=WITHOUT_GPU
    )


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("shape", "options", "sentence"),
    [
        ({}, {"bias": torch.zeros(4, 4)}, "bias: got a tensor, expected None: FlashAttention 4 adds no bias"),
        (
            {"dtype": torch.float32},
            {},
            "dtype: got torch.float32, torch.float32, torch.float32, expected bfloat16 or float16, one for query, key "
            "and value",
        ),
        (
            {},
            {"sinks": torch.zeros(2, dtype=torch.int32)},
            "sinks: got torch.int32, expected bfloat16, float16 or float32",
        ),
        (
            {},
            {"scale": -0.5},
            "scale: got -0.5, expected a positive number: the kernels look for the largest score before scaling",
        ),
        (
            {},
            {"sinks": torch.zeros(2, device="meta")},
            "device: got cpu, meta, expected the same device for all tensors",
        ),
        (
            {},
            {"key_mask": torch.ones(1, 4, dtype=torch.bool, device="meta")},
            "key_mask: got one on meta, expected cpu as for query",
        ),
        ({"D": 300}, {}, "head width: got 300, expected at most 256"),
        ({"V": 264}, {}, "head width: got 264, expected at most 256"),
        (
            {},
            {"key_mask": torch.tensor([[True, True, False, False]]), "window": (1, 0)},
            "key_mask: got hidden keys behind visible ones in the window (1, 0), expected them at the start only: "
            "FlashAttention 4 leaves hidden keys out and counts positions from the last key",
        ),
        (
            {},
            {"key_mask": torch.tensor([[True, False, True, False]]), "window": (None, 0)},
            "key_mask: got hidden keys between visible ones in a causal window, expected them at the start and at the "
            "end only: FlashAttention 4 leaves hidden keys out and counts positions from the last key",
        ),
    ],
    ids=["bias", "dtype", "sink dtype", "scale", "device", "mask device", "D", "V", "mask in a window", "mask, causal"],
)
def test_what_the_kernels_cannot_do_is_refused(shape: Any, options: Any, sentence: str) -> None:
    assert_refused(attention, supports, *_call(**shape), sentence=sentence, **({"scale": 1.0} | options))


@pytest.mark.usefixtures("stand_in")
def test_widths_without_a_complete_backward_pass_are_refused_on_blackwell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "architecture", lambda device: "sm_100")  # noqa: ARG005  # its own argument
    query, key, value = _call(D=192, V=160)
    sentence = (
        "head width: got 192 and value width 160 on sm_100, expected at most 192 and 128 where gradients are wanted: "
        "the backward pass beyond takes neither sinks nor a gradient of the logsumexp"
    )
    assert_refused(attention, supports, query, key.requires_grad_(), value, scale=1.0, sentence=sentence)


@pytest.mark.usefixtures("stand_in")
def test_widths_without_a_complete_backward_pass_serve_inference_on_blackwell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "architecture", lambda device: "sm_100")  # noqa: ARG005  # its own argument
    query, key, value = _call(D=192, V=160)
    assert supports(query, key, value, scale=1.0) is None
    with torch.no_grad():
        assert supports(query.requires_grad_(), key, value, scale=1.0) is None


def test_an_architecture_without_a_backward_pass_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))  # noqa: ARG005  # torch's argument
    sentence = "device: got sm_80, expected one of sm_90, sm_100, sm_103, sm_110"
    assert kernels.refuse_machine(torch.device("cuda")) == sentence


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))  # noqa: ARG005  # torch's argument
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # noqa: ARG005  # its own argument
    sentence = "flash_attn.cute: got no such module, expected FlashAttention 4, the package flash-attn-4"
    assert kernels.refuse_machine(torch.device("cuda")) == sentence


@pytest.mark.parametrize("window", [(-1, 0), (None, -1)])
def test_a_negative_window_is_an_error(window: tuple[int | None, int | None]) -> None:
    with pytest.raises(ValueError, match=r"^window: got .*, expected \(left, right\), each None or at least 0$"):
        attention(*_call(), scale=1.0, window=window)


def test_offsets_that_do_not_describe_the_tokens_are_an_error() -> None:
    query, key, value = (tensor[0] for tensor in _call())
    with pytest.raises(ValueError, match=r"^cu_seqlens_k: got "):
        varlen_attention(query, key, value, torch.tensor([0, 4]), torch.tensor([0, 3]), scale=1.0)
