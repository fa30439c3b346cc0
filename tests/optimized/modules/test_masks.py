"""What a mask of Gated DeltaNet and of its convolution does to the tokens that it names."""

import pytest
import torch
from torch import Tensor

from optimized.modules import CausalShortDepthwiseConv1d, GatedDeltaNet
from tests.optimized.modules.layers import EXAMPLES, LAYERS, randomized

HIDDEN: Tensor = EXAMPLES["gated_delta_net"].inputs[0].detach()
MASK = torch.tensor([[True, True, False, True], [False, True, True, True]])

every_backend = pytest.mark.parametrize("backend", ["torch", "eager"])


def _layer(backend: str) -> torch.nn.Module:
    return randomized(GatedDeltaNet(**LAYERS["gated_delta_net"].config, backend=backend).double())


@every_backend
def test_a_hidden_token_that_is_not_a_number_has_no_influence(backend: str) -> None:
    layer, poisoned = _layer(backend), HIDDEN.masked_fill(~MASK[..., None], torch.nan)
    assert torch.equal(layer(poisoned, MASK), layer(HIDDEN, MASK))


@every_backend
def test_a_hidden_token_gives_zero(backend: str) -> None:
    assert not _layer(backend)(HIDDEN, MASK)[~MASK].any()


@every_backend
def test_a_visible_token_does_not_give_zero(backend: str) -> None:
    assert _layer(backend)(HIDDEN, MASK)[MASK].all()


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.float64])
@every_backend
def test_ones_and_zeros_hide_as_booleans_do(backend: str, dtype: torch.dtype) -> None:
    layer = _layer(backend)
    assert torch.equal(layer(HIDDEN, MASK.to(dtype)), layer(HIDDEN, MASK))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
@every_backend
def test_a_mask_of_other_numbers_is_a_factor(backend: str, dtype: torch.dtype) -> None:
    layer, twice = _layer(backend), torch.full((2, 4), 2, dtype=dtype)
    assert torch.equal(layer(HIDDEN, twice), layer(2 * HIDDEN))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
def test_the_mask_of_a_convolution_is_a_factor(dtype: torch.dtype) -> None:
    module, twice = CausalShortDepthwiseConv1d(HIDDEN.shape[-1], 3).double(), torch.full((2, 4), 2, dtype=dtype)
    assert torch.equal(module(HIDDEN, twice), module(2 * HIDDEN))
