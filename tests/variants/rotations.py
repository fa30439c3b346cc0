"""Legal executions of RoPE: the same rotation, its two products rounded or fused, channels paired in several ways.

All of them compute in float32 and round once. Letters: B batch, T tokens, H heads, R rotated channels.
"""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["ADDITIONS", "by_complex_numbers", "by_matrices", "by_rolling", "make_rope"]

Addition = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""``a * b + c * d``."""


def _rounded_products(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return a * b + c * d


def _first_fused(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The first product is not rounded before the addition, as in a fused multiply-add; exact in float64."""
    return (a.double() * b.double() + (c * d).double()).float()


def _second_fused(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return ((a * b).double() + c.double() * d.double()).float()


def _rounded_once(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return (a.double() * b.double() + c.double() * d.double()).float()


ADDITIONS: dict[str, Addition] = {
    "products": _rounded_products,
    "first": _first_fused,
    "second": _second_fused,
    "once": _rounded_once,
}


class _Turn(torch.autograd.Function):
    """A rotation of pairs, and back by the opposite angle, each with an addition of its own."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        style: str,
        ways: tuple[Addition, Addition, Addition],
    ) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.style, ctx.way = style, ways[2]  # type: ignore[attr-defined]  # contexts take any attribute
        (a, b), (c, d), (s, t) = (_pairs(each, style) for each in (x, cos, sin))
        return _joined(ways[0](a, c, -b, s), ways[1](b, d, a, t), style)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        style, way = ctx.style, ctx.way  # type: ignore[attr-defined]  # set in forward
        cos, sin = ctx.saved_tensors  # type: ignore[attr-defined]  # torch's own attribute
        (a, b), (c, d), (s, t) = (_pairs(each, style) for each in (grads[0], cos, sin))
        return _joined(way(a, c, b, t), way(b, d, -a, s), style), None, None, None, None


def make_rope(first: str, second: str, back: str) -> Callable[..., Tensor]:
    """Returns ``rope`` by pairs.

    Args:
        first: addition, by name, of a pair's first channel.
        second: of its second channel.
        back: of the backward pass.
    """
    ways = (ADDITIONS[first], ADDITIONS[second], ADDITIONS[back])

    def rope(x: Tensor, cos: Tensor, sin: Tensor, *, style: str) -> Tensor:
        turned: Tensor = _Turn.apply(x.float(), _table(cos), _table(sin), style, ways)  # type: ignore[no-untyped-call]  # autograd.Function is untyped
        return turned.to(x.dtype)

    return rope


def by_complex_numbers(x: Tensor, cos: Tensor, sin: Tensor, *, style: str) -> Tensor:
    """Returns ``rope`` as a product of complex numbers, the tables' first half being as good as their second."""
    first, second = _pairs(x.float(), style)
    angle = torch.complex(_pairs(_table(cos), style)[0], _pairs(_table(sin), style)[0])
    turned = torch.complex(first.contiguous(), second.contiguous()) * angle
    return _joined(turned.real, turned.imag, style).to(x.dtype)


def by_matrices(x: Tensor, cos: Tensor, sin: Tensor, *, style: str) -> Tensor:
    """Returns ``rope`` as one 2 x 2 matrix per pair, token and head."""
    vector = torch.stack(_pairs(x.float(), style), -1).unsqueeze(-1)
    (c, d), (s, t) = (_pairs(_table(each), style) for each in (cos, sin))
    matrix = torch.stack((torch.stack((c, -s), -1), torch.stack((t, d), -1)), -2)
    turned = (matrix.expand(*vector.shape[:-2], 2, 2) @ vector).squeeze(-1)
    return _joined(turned[..., 0], turned[..., 1], style).to(x.dtype)


def by_rolling(x: Tensor, cos: Tensor, sin: Tensor, *, style: str) -> Tensor:
    """Returns ``rope`` as ``rotate(x) sin`` plus ``x cos``, the rotation a roll of channels and a row of signs."""
    wide, width = x.float(), x.shape[-1]
    if style == "half":
        sign = torch.where(torch.arange(width) < width // 2, -1.0, 1.0)
        rotated = wide.roll(width // 2, -1) * sign
    else:
        is_first = torch.arange(width) % 2 == 0
        rotated = torch.where(is_first, -wide.roll(-1, -1), wide.roll(1, -1))
    return torch.addcmul(rotated * _table(sin), wide, _table(cos)).to(x.dtype)


def _table(table: Tensor) -> Tensor:
    return table.float().unsqueeze(2)


def _pairs(x: Tensor, style: str) -> tuple[Tensor, Tensor]:
    size, axis = ((2, -1), -2) if style == "half" else ((-1, 2), -1)
    first, second = torch.unflatten(x, -1, size).unbind(axis)
    return first, second


def _joined(first: Tensor, second: Tensor, style: str) -> Tensor:
    return torch.stack((first, second), -2 if style == "half" else -1).flatten(-2)
