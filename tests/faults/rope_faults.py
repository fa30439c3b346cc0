"""Faults of rotary embeddings and of their tables; those of partial rotation in a layer are in ``layer_faults``."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from harness.power.fault import Fault
from optimized.eager.rope import rope
from tests.faults.seeding import Call, seeded
from tests.variants.wrong_formulas import scaled_argument

__all__ = ["FAULTS"]


class _Rotation(torch.autograd.Function):
    """``rope``, whose backward pass is ``rope`` by ``sign`` times the angles."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, style: str, sign: float) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.style, ctx.sign = style, sign
        return rope(x, cos, sin, style=style)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return rope(grads[0], cos, ctx.sign * sin, style=ctx.style), None, None, None, None


def _rotating(sign: float) -> Call:
    return lambda x, cos, sin, *, style: _Rotation.apply(x, cos, sin, style, sign)  # type: ignore[no-untyped-call]  # autograd.Function is untyped


def _rotated_back() -> Call:
    return _rotating(-1.0)


def _first_tables(base: Call) -> Call:
    """Returns ``rope`` that finds its tables by the token alone."""
    return lambda x, cos, sin, **kwargs: base(x, cos[:1].expand_as(cos), sin[:1].expand_as(sin), **kwargs)


def _in_place(base: Call) -> Call:
    """Returns ``rope`` whose result takes the place of its input."""

    def call(x: Tensor, *tables: Tensor, **kwargs: Any) -> Tensor:
        out: Tensor = base(x, *tables, **kwargs)
        x.data.copy_(out.detach())
        return out

    return call


def _of_whole_head(base: Call) -> Callable[..., Any]:
    """Returns tables whose exponents are divided by a head that is twice as wide as its rotated part."""
    return lambda positions, **kwargs: base(positions, **{**kwargs, "base": kwargs["base"] ** 0.5})


FAULTS: tuple[Fault, ...] = (
    seeded("B046a", "sine-sign-backward", "rope", lambda _: _rotating(1.0), base=_rotated_back,
           what="The backward pass turns by the angles of the forward pass instead of back.",
           source="flash-attention #569", detectors=("GRAD", "META"), phase="gradient"),
    seeded("B047", "first-tables", "rope", _first_tables,
           what="Every row of a batch is rotated by the tables of the first one.",
           source="Liger-Kernel #477", detectors=("VAL",), reach={"batch": 2}),
    seeded("B052a", "exponent-of-head", "rope_tables", _of_whole_head, differentiable=False,
           what="Frequencies are spaced for the whole head though only half of it is rotated.",
           source="pie #603", detectors=("VAL",), reach={"scaling": "none"},
           regimes=("normal", "far", "power_of_two")),
    seeded("B053a", "in-place", "rope", _in_place,
           what="The rotated values are written over the caller's own.",
           source="Megatron-LM #5412", detectors=("MEM",)),
    seeded("Y007", "sine-sign", "rope", scaled_argument(2, -1.0),
           what="Pairs are turned the other way.", source="planted", detectors=("VAL",)),
)  # fmt: skip
