"""The emulator of rotary embedding, rounded to nearest, is torch's own eager code in 16 bits."""

import pytest
import torch

from harness.emulators.arithmetic import Arithmetic
from harness.emulators.rope import emulate
from harness.emulators.rounding import Nearest
from optimized.candidate import Recipe
from optimized.eager.rope import rope_stored


@pytest.mark.parametrize("style", ["half", "interleaved"])
@pytest.mark.parametrize("storage", ["bfloat16", "float16"])
def test_eager_emulation_to_nearest_is_eager_torch_bit_for_bit(storage: str, style: str) -> None:
    dtype: torch.dtype = getattr(torch, storage)
    generator = torch.Generator().manual_seed(0)
    x, cotangent = torch.randn(2, 2, 7, 3, 8, generator=generator).to(dtype)
    cos, sin = torch.randn(2, 2, 7, 8, generator=generator).to(dtype)
    leaf = x.clone().requires_grad_()
    expected = rope_stored(leaf, cos, sin, style=style)
    (expected_grad,) = torch.autograd.grad(expected, leaf, cotangent)

    recipe = Recipe(storage=storage, operand=storage, accumulator="float32", intermediates=storage)
    tensors = {name: item.double()[None] for name, item in (("x", x), ("cos", cos), ("sin", sin))}
    tensors["x"].requires_grad_()
    out = emulate(Arithmetic(recipe, Nearest()), tensors, {"style": style})["out"]
    (grad,) = torch.autograd.grad(out, tensors["x"], cotangent.double()[None])
    assert torch.equal(out[0].to(dtype), expected)
    assert torch.equal(grad[0].to(dtype), expected_grad)
