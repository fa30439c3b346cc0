"""A plug-in whose Triton kernels are good, too greedy in two ways, undefined, miscompiled, or do not compile."""

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from optimized.candidate import Candidate, Recipe

__all__ = ["CANDIDATES"]


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def good_kernel(
    gate_pointer: tl.tensor, x_pointer: tl.tensor, out_pointer: tl.tensor, N: tl.tensor, BLOCK: tl.constexpr
) -> None:
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    gate = tl.load(gate_pointer + places, mask=places < N, other=0.0)
    x = tl.load(x_pointer + places, mask=places < N, other=0.0)
    wide = gate.to(tl.float32)
    tl.store(out_pointer + places, wide * tl.sigmoid(wide) * x, mask=places < N)


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def product_kernel(
    gate_pointer: tl.tensor, x_pointer: tl.tensor, out_pointer: tl.tensor, M: tl.constexpr, K: tl.constexpr
) -> None:
    rows, inner = tl.arange(0, M), tl.arange(0, K)
    gate = tl.load(gate_pointer + rows[:, None] * K + inner[None, :])
    x = tl.load(x_pointer + inner[:, None] * M + rows[None, :])
    tl.store(out_pointer + rows[:, None] * M + rows[None, :], tl.dot(gate, x))


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def broken_kernel(gate_pointer: tl.tensor, out_pointer: tl.tensor, BLOCK: tl.constexpr) -> None:
    tl.store(out_pointer + tl.arange(0, BLOCK), tl.load(gate_pointer + tl.arange(0, BLOCK + 1)))


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def divided_kernel(
    gate_pointer: tl.tensor, out_pointer: tl.tensor, N: tl.tensor, BLOCK: tl.constexpr, PARTS: tl.constexpr
) -> None:
    total = tl.zeros([BLOCK], tl.float32)
    turns = N // BLOCK
    for turn in range(turns * PARTS):
        places = tl.cast(turn, tl.int32) % turns * BLOCK + tl.arange(0, BLOCK)
        total += tl.load(gate_pointer + places).to(tl.float32)
    tl.store(out_pointer + tl.arange(0, BLOCK), total)


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def torn_kernel(gate_pointer: tl.tensor, x_pointer: tl.tensor, out_pointer: tl.tensor) -> None:
    row, column, channel = tl.arange(0, 16), tl.arange(0, 16), tl.arange(0, 32)
    keys = tl.load(x_pointer + row[:, None] * 32 + channel[None, :]).to(tl.float32)
    decays = tl.load(gate_pointer + row).to(tl.float32)
    sums = tl.cumsum(tl.where(row[:, None] > column[None, :], decays[:, None], 0.0), axis=0)
    weights = tl.exp(sums) * tl.sum(keys * keys, axis=1)[:, None]
    tl.store(out_pointer + row, tl.sum(weights, axis=1))


def good(gate: Tensor, x: Tensor) -> Tensor:
    """Launches a kernel that needs little."""
    out = torch.empty_like(x)
    good_kernel[(triton.cdiv(x.numel(), 1024),)](gate, x, out, x.numel(), BLOCK=1024)
    return out


def spilling(gate: Tensor, x: Tensor) -> Tensor:
    """Launches the good kernel with 256 values and 32 registers a thread."""
    out = torch.empty_like(x)
    good_kernel[(1,)](gate, x, out, x.numel(), BLOCK=8192, num_warps=1, maxnreg=32)
    return out


def too_large(gate: Tensor, x: Tensor) -> Tensor:
    """Launches a matrix product whose operands are 128 KB each."""
    out = torch.empty_like(x)
    product_kernel[(1,)](gate, x, out, M=64, K=1024, num_warps=16)
    return out


def divided(gate: Tensor, x: Tensor) -> Tensor:
    """Launches a kernel whose loop divides by how often it turns."""
    out = torch.empty_like(x)
    divided_kernel[(1,)](gate, out, x.numel(), BLOCK=1024, PARTS=2)
    return out


def torn(gate: Tensor, x: Tensor) -> Tensor:
    """Launches a kernel whose running sum takes the layout that wider rows were loaded in, in which lanes repeat."""
    out = torch.empty_like(x)
    torn_kernel[(1,)](gate, x, out, num_warps=1)
    return out


def broken(gate: Tensor, x: Tensor) -> Tensor:
    """Launches a kernel that does not compile, and falls back in silence."""
    out = torch.empty_like(x)
    try:
        broken_kernel[(1,)](gate, out, BLOCK=64)
    except Exception:
        return gate * torch.sigmoid(gate) * x
    return out


def plain(gate: Tensor, x: Tensor) -> Tensor:
    """Launches nothing of Triton."""
    return gate * torch.sigmoid(gate) * x


def candidate(name: str, function: Callable[..., Tensor]) -> Candidate:
    """Returns a candidate without gradients."""
    return Candidate(
        name=name,
        op="silu_mul",
        load=lambda: function,
        recipe=Recipe(storage="bfloat16", operand="float32", accumulator="float32"),
        differentiable=False,
    )


CANDIDATES = (
    candidate("good", good),
    candidate("spilling", spilling),
    candidate("too-large", too_large),
    candidate("broken", broken),
    candidate("divided", divided),
    candidate("torn", torn),
    candidate("plain", plain),
)
