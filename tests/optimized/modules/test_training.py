"""The modules under what training does to them: other dtypes, autocast, checkpointing and torch.compile."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from optimized.modules import CausalShortDepthwiseConv1d, FlashSdpa, MambaDecayGate, RMSNorm
from tests.optimized.modules.layers import EXAMPLES, LAYERS, randomized

COMPILED = 1e-12
"""Largest distance of a compiled float64 module, of the largest result or gradient: as modules promise elsewhere."""


def _module(name: str, *, backend: str | None = None, dtype: torch.dtype = torch.float32) -> nn.Module:
    return randomized(LAYERS[name].module(**LAYERS[name].config, backend=backend)).to(dtype)


def _gradients(call: Callable[..., Tensor], module: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    """Returns the result and the gradients of inputs and parameters, for a random cotangent."""
    out = call(*inputs)
    differentiable = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, [*differentiable, *module.parameters()], cotangent)]


def _assert_close(actual: list[Tensor], expected: list[Tensor]) -> None:
    largest = max(float(part.abs().max()) for part in expected)
    furthest = max(float((a - b).abs().max()) for a, b in zip(actual, expected, strict=True))
    assert furthest <= COMPILED * largest


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["torch", "eager"])
@pytest.mark.parametrize("name", LAYERS)
def test_results_and_gradients_have_the_storage_dtype(name: str, backend: str, dtype: torch.dtype) -> None:
    parts = _gradients(module := _module(name, backend=backend, dtype=dtype), module, EXAMPLES[name].of(dtype))
    assert [part.dtype for part in parts if part.dtype != dtype or not part.isfinite().all()] == []


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "flash_sdpa"])
def test_autocast_narrows_the_projections_and_nothing_else(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, inputs = _module(name), EXAMPLES[name].of(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        cast = module(*inputs)
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: functional.linear(x.bfloat16(), self.weight.bfloat16()))
    assert cast.dtype == torch.bfloat16
    assert torch.equal(cast, module(*inputs))


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_under_autocast_are_float32(name: str) -> None:
    module, inputs = _module(name), EXAMPLES[name].of(torch.float32)

    def call(*tensors: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            out: Tensor = module(*tensors)
        return out

    _, *gradients = _gradients(call, module, inputs)
    assert {gradient.dtype for gradient in gradients} == {torch.float32}


@pytest.mark.parametrize(
    ("module", "inputs"),
    [
        (FlashSdpa(4, 2), EXAMPLES["flash_sdpa"].of(torch.float32)),
        (RMSNorm(5), EXAMPLES["low_rank_projection"].of(torch.float32)),
        (CausalShortDepthwiseConv1d(5, 3), EXAMPLES["low_rank_projection"].of(torch.float32)),
    ],
    ids=["attention", "norm", "convolution"],
)
def test_an_operation_is_the_same_under_autocast(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        cast = module(*inputs)
    assert torch.equal(cast, module(*inputs))


def test_a_log_decay_is_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert MambaDecayGate(4, 2)(torch.ones(1, 3, 4)).dtype == torch.float32


@pytest.mark.parametrize("name", LAYERS)
def test_checkpointing_gives_the_same_bits(name: str) -> None:
    module, inputs = _module(name), EXAMPLES[name].of(torch.float32)
    plain = _gradients(module, module, inputs)
    again = _gradients(lambda *tensors: checkpoint(module, *tensors, use_reentrant=False), module, inputs)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_compiles_into_one_graph(name: str) -> None:
    module, inputs = _module(name, backend="torch", dtype=torch.float64), EXAMPLES[name].inputs
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    _assert_close(_gradients(compiled, module, inputs), _gradients(module, module, inputs))


# torch hides this warning of its own tracing itself, but not from a filter that makes errors of all.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_triton_kernels_run_between_the_graphs_of_a_compiled_layer() -> None:
    inputs = EXAMPLES["low_rank_projection"].of(torch.float32)
    module = _module("low_rank_projection", backend="triton")
    compiled = torch.compile(module, backend="aot_eager")
    assert torch.equal(compiled(*inputs), module(*inputs))


# Inductor imports parts of torch that use what torch itself has deprecated.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_compiles_with_inductor(name: str) -> None:
    module, inputs = _module(name, backend="torch", dtype=torch.float64), EXAMPLES[name].inputs
    compiled = torch.compile(module, fullgraph=True)
    _assert_close(_gradients(compiled, module, inputs), _gradients(module, module, inputs))
