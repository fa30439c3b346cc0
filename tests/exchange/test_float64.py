"""What makes transformers compute in float64, and the difference that it makes."""

import pytest
import torch

from tests.exchange.agreement import AGREEMENT, normal
from tests.exchange.float64 import forced_float64
from tests.exchange.peers import transformers


def test_a_request_for_float32_is_answered_with_float64() -> None:
    x = normal(3, seed=1)
    with forced_float64():
        results = (
            x.float(),
            x.to(torch.float32),
            x.type(torch.float32),
            x.softmax(-1, dtype=torch.float32),
            torch.arange(3, dtype=torch.float),
            torch.ones(3),
        )
    assert {result.dtype for result in results} == {torch.float64}


def test_a_float32_tensor_that_comes_into_being_all_the_same_is_refused() -> None:
    single = torch.ones(3, dtype=torch.float32)
    with forced_float64(), pytest.raises(AssertionError, match="computed in float32"):
        single + single


def test_the_default_dtype_is_what_it_was_before() -> None:
    before = torch.get_default_dtype()
    with forced_float64():
        pass
    assert torch.get_default_dtype() == before


def test_without_force_a_norm_of_transformers_rounds_to_float32() -> None:
    x = normal(4, 8, seed=1)
    norm = transformers("models.qwen3.modeling_qwen3").Qwen3RMSNorm(8).double()
    with forced_float64():
        exact = norm(x)
    assert (norm(x) - exact).abs().max() > AGREEMENT
