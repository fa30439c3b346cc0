"""Norms, gates, rotation and convolution read each element of their inputs once and write each of their outputs once.

Interpreted kernels with Hopper's tiles; every load and store is recorded with its addresses, those that are masked out
left out, and counted per tensor. Parameters and partial sums of parameters' gradients are small and not counted here.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from triton.runtime.interpreter import InterpreterBuilder

from optimized.gated_rms_norm import gated_rms_norm
from optimized.kernels.tiling import rms_norm_tiles, short_conv_tiles
from optimized.l2_norm import l2_norm
from optimized.log_sigmoid_decay import log_sigmoid_decay
from optimized.mamba_decay import mamba_decay
from optimized.rms_norm import rms_norm
from optimized.short_conv import short_conv
from optimized.silu_mul import silu_mul

HOPPER = "sm_90"
TOKENS, CHANNELS, TAPS = 64, 256, 4
Loads = list[np.ndarray[Any, np.dtype[np.uint64]]]
Function = Callable[[Sequence[torch.Tensor]], torch.Tensor]


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()


def wide(count: int) -> list[torch.Tensor]:
    return [drawn(2, TOKENS, CHANNELS) for _ in range(count)]


# Per operation: its call, the tensors of full size, the parameters.
OPERATIONS: dict[str, tuple[Function, list[torch.Tensor], list[torch.Tensor]]] = {
    "rms_norm": (lambda t: rms_norm(t[0], t[1], eps=1e-6), wide(1), [drawn(CHANNELS)]),
    "gated_rms_norm": (lambda t: gated_rms_norm(t[0], t[1], t[2], eps=1e-6), wide(2), [drawn(CHANNELS)]),
    "l2_norm": (lambda t: l2_norm(t[0]), wide(1), []),
    "silu_mul": (lambda t: silu_mul(t[0], t[1]), wide(2), []),
    "mamba_decay": (lambda t: mamba_decay(t[0], t[1], t[2]), wide(1), [drawn(CHANNELS), drawn(CHANNELS)]),
    "log_sigmoid_decay": (lambda t: log_sigmoid_decay(t[0], normalizer=16.0), wide(1), []),
}


@contextlib.contextmanager
def recorded() -> Iterator[tuple[Loads, Loads]]:
    """Collects the addresses of loads and of stores, with the tiles of a Hopper GPU."""
    loads: Loads = []
    stores: Loads = []
    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

    def loading(self: Any, pointers: Any, mask: Any, *others: Any) -> Any:
        loads.append(pointers.data[np.broadcast_to(mask.data, pointers.data.shape)].ravel())
        return load(self, pointers, mask, *others)

    def storing(self: Any, pointers: Any, value: Any, mask: Any, *others: Any) -> Any:
        stores.append(pointers.data[np.broadcast_to(mask.data, pointers.data.shape)].ravel())
        return store(self, pointers, value, mask, *others)

    with contextlib.ExitStack() as stack:
        for module in [each for name, each in sys.modules.items() if name.startswith("optimized.")]:
            if hasattr(module, "architecture"):
                stack.enter_context(mock.patch.object(module, "architecture", return_value=HOPPER))
        stack.enter_context(
            mock.patch.multiple(InterpreterBuilder, create_masked_load=loading, create_masked_store=storing)
        )
        yield loads, stores


def passes(accesses: Loads, tensor: torch.Tensor) -> float:
    """Returns how often each element of a tensor is accessed, on average."""
    first = tensor.data_ptr()
    last = first + tensor.numel() * tensor.element_size()
    return sum(int(((each >= first) & (each < last)).sum()) for each in accesses) / tensor.numel()


@pytest.mark.parametrize("name", OPERATIONS)
def test_one_read_of_every_input_and_one_write_of_the_output(name: str) -> None:
    function, tensors, parameters = OPERATIONS[name]
    with recorded() as (loads, stores), torch.no_grad():
        out = function([*tensors, *parameters])
    assert [passes(loads, x) for x in tensors] == [1] * len(tensors)
    assert passes(stores, out) == 1


@pytest.mark.parametrize("name", OPERATIONS)
def test_backward_is_one_read_of_inputs_and_cotangent_and_one_write_of_gradients(name: str) -> None:
    function, tensors, parameters = OPERATIONS[name]
    out = function([*tensors, *parameters])
    cotangent = torch.randn_like(out)
    with recorded() as (loads, stores):
        gradients = torch.autograd.grad(out, [*tensors, *parameters], cotangent)
    read = [*tensors, cotangent]
    assert [passes(loads, x) for x in read] == [1] * len(read)
    assert [passes(stores, x) for x in gradients[: len(tensors)]] == [1] * len(tensors)


def test_the_convolution_reads_a_token_once_and_those_at_the_border_of_a_segment_once_more() -> None:
    x, weight = drawn(2, TOKENS, CHANNELS), drawn(CHANNELS, TAPS)
    segment = short_conv_tiles(taps=TAPS, is_backward=False, dtype=x.dtype, arch=HOPPER).segment
    with recorded() as (loads, stores), torch.no_grad():
        out = short_conv(x, weight)
    assert 1 <= passes(loads, x) <= 1 + (TAPS - 1) / segment
    assert passes(stores, out) == 1


def test_what_the_norm_s_backward_writes_beside_the_gradient_is_a_row_per_program() -> None:
    x, weight = drawn(2, TOKENS, CHANNELS), drawn(CHANNELS)
    out = rms_norm(x, weight, eps=1e-6)
    tiles = rms_norm_tiles(width=CHANNELS, is_gated=False, dtype=x.dtype, arch=HOPPER)
    with recorded() as (_, stores):
        torch.autograd.grad(out, [x, weight], torch.randn_like(out))
    beside = sum(each.size for each in stores) - x.numel()
    programs = min(tiles.num_programs, -(-2 * TOKENS // tiles.block_rows))
    assert beside == programs * CHANNELS


def test_a_second_read_is_seen() -> None:
    x, weight = drawn(2, TOKENS, CHANNELS), drawn(CHANNELS)
    with recorded() as (loads, _), torch.no_grad():
        rms_norm(x, weight, eps=1e-6)
        rms_norm(x, weight, eps=1e-6)
    assert passes(loads, x) == 2
