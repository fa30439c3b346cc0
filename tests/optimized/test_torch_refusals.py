"""What torch's own attention kernels decline, said by ``supports`` and raised by the call."""

from typing import Any

import pytest
import torch

from optimized import flex_attention, torch_sdpa
from tests.optimized.refusals import assert_refused


def _call(
    *, width: int = 8, value_width: int = 8, tokens: int = 3, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    query, key = (torch.ones(1, tokens, 2, width, dtype=dtype, device=device) for _ in range(2))
    return query, key, torch.ones(1, tokens, 2, value_width, dtype=dtype, device=device)


@pytest.mark.parametrize(
    ("shape", "options", "sentence"),
    [
        ({"device": "meta"}, {}, "device: got meta, expected cpu, whose flash kernel takes masks"),
        ({"value_width": 4}, {}, "value width: got 4, expected 8, the width of queries and keys"),
        ({}, {"sinks": torch.zeros(2)}, "sinks: got a tensor, expected None, scaled_dot_product_attention has none"),
        (
            {},
            {"bias": torch.zeros(3, 3, requires_grad=True)},
            "bias: got one that requires a gradient, expected a constant one",
        ),
    ],
    ids=["device", "value width", "sinks", "bias"],
)
def test_the_flash_kernel_of_the_cpu_declines(shape: dict[str, Any], options: dict[str, Any], sentence: str) -> None:
    assert_refused(
        torch_sdpa.flash_attention, torch_sdpa.supports_flash, *_call(**shape), scale=0.5, sentence=sentence, **options
    )


def test_the_decomposition_declines_sinks() -> None:
    sentence = "sinks: got a tensor, expected None, scaled_dot_product_attention has none"
    sinks = torch.zeros(2)
    assert_refused(
        torch_sdpa.math_attention, torch_sdpa.supports_math, *_call(), scale=0.5, sinks=sinks, sentence=sentence
    )


@pytest.mark.parametrize(
    ("shape", "options", "sentence"),
    [
        ({"device": "meta"}, {}, "device: got meta, expected cpu"),
        ({"dtype": torch.float16}, {}, "query: got torch.float16, expected float32 or bfloat16"),
        (
            {"tokens": 0},
            {},
            "query, key: got shapes (1, 0, 2, 8) and (1, 0, 2, 8), expected no empty axis",
        ),
        (
            {},
            {"sinks": torch.zeros(2)},
            "sinks: got a tensor, expected None, the compiled CPU kernel returns no lse to add them to",
        ),
        (
            {},
            {"bias": torch.zeros(3, 3)},
            "bias: got a tensor, expected None, it would be one more program to compile",
        ),
    ],
    ids=["device", "dtype", "empty", "sinks", "bias"],
)
def test_flex_attention_declines(shape: dict[str, Any], options: dict[str, Any], sentence: str) -> None:
    assert_refused(
        flex_attention.flex_attention, flex_attention.supports, *_call(**shape), scale=0.5, sentence=sentence, **options
    )
