"""Legal executions of SiLU gates and decay gates: other forms of the logistic function and of softplus.

All of them compute in float32 and round once.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["LOGISTICS", "SOFTPLUSES", "make_log_sigmoid_decay", "make_mamba_decay", "make_silu_mul", "silu"]

Function = Callable[[Tensor], Tensor]


def by_halves(x: Tensor) -> Tensor:
    """Returns ``1 / (1 + exp(-x))`` of ``exp(-|x|)``, which never overflows."""
    small = torch.exp(-x.abs())
    return torch.where(x >= 0, 1 / (1 + small), small / (1 + small))


def base_two(x: Tensor) -> Tensor:
    """Returns the same of a power of two; rounding ``x log2(e)`` is an error of up to ``|x| 2^-24``."""
    small = torch.exp2(x.abs() * -math.log2(math.e))
    return torch.where(x >= 0, 1 / (1 + small), small / (1 + small))


def by_log(x: Tensor) -> Tensor:
    """Returns ``exp(-softplus(-x))``."""
    return torch.exp(functional.logsigmoid(x))


def in_float64(x: Tensor) -> Tensor:
    """Returns the logistic function in float64, rounded once."""
    return torch.sigmoid(x.double()).float()


LOGISTICS: dict[str, Function] = {
    "halves": by_halves,
    "base-two": base_two,
    "torch": torch.sigmoid,
    "float64": in_float64,
}


def silu(x: Tensor, logistic: str) -> Tensor:
    """Returns ``x`` times a logistic function, ``torch's`` own being one function."""
    return functional.silu(x) if logistic == "silu" else x * LOGISTICS[logistic](x)


def make_silu_mul(logistic: str, *, order: str = "gate first") -> Callable[[Tensor, Tensor], Tensor]:
    """Returns ``silu_mul``.

    Args:
        logistic: name of the logistic function, or ``silu``.
        order: ``gate first``: ``(gate s) x``; ``x first``: ``gate (s x)``; ``s last``: ``(gate x) s``.
    """

    def silu_mul(gate: Tensor, x: Tensor) -> Tensor:
        wide, factor = gate.float(), x.float()
        if order == "gate first":
            return (silu(wide, logistic) * factor).to(x.dtype)
        share = LOGISTICS[logistic](wide)
        return (wide * (share * factor) if order == "x first" else wide * factor * share).to(x.dtype)

    return silu_mul


def _softplus_by_halves(x: Tensor) -> Tensor:
    return x.clamp_min(0) + torch.log1p(torch.exp(-x.abs()))


def _softplus_base_two(x: Tensor) -> Tensor:
    return x.clamp_min(0) + torch.log1p(torch.exp2(x.abs() * -math.log2(math.e)))


def _softplus_by_atanh(x: Tensor) -> Tensor:
    """``log(1 + e) = 2 atanh(e / (2 + e))``."""
    small = torch.exp(-x.abs())
    return x.clamp_min(0) + 2 * torch.atanh(small / (2 + small))


def _softplus_by_logaddexp(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))


def _softplus_in_float64(x: Tensor) -> Tensor:
    return torch.logaddexp(x.double(), torch.zeros_like(x.double())).float()


SOFTPLUSES: dict[str, Function] = {
    "logaddexp": _softplus_by_logaddexp,
    "log1p": _softplus_by_halves,
    "base-two": _softplus_base_two,
    "atanh": _softplus_by_atanh,
    "float64": _softplus_in_float64,
    "logsigmoid": lambda x: -functional.logsigmoid(-x),
}
"""Ways to ``log(1 + exp(x))``, each of full relative accuracy where it is tiny."""


class _Softplus(torch.autograd.Function):
    """A softplus, whose derivative is the logistic function, also at 0, where halves meet."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, softplus: Function) -> Tensor:
        ctx.save_for_backward(x)
        return softplus(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * torch.sigmoid(ctx.saved_tensors[0]), None


def _softplus(x: Tensor, name: str) -> Tensor:
    result: Tensor = _Softplus.apply(x, SOFTPLUSES[name])  # type: ignore[no-untyped-call]  # autograd.Function is untyped
    return result


def make_mamba_decay(softplus: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Returns ``mamba_decay`` of a softplus by name."""

    def mamba_decay(x: Tensor, a_log: Tensor, dt_bias: Tensor) -> Tensor:
        step = x.float() + dt_bias.float()
        return -(a_log.float().exp() * _softplus(step, softplus))

    return mamba_decay


def make_log_sigmoid_decay(softplus: str, *, divides: bool = False) -> Callable[..., Tensor]:
    """Returns ``log_sigmoid_decay`` as ``-softplus(-x)``, divided by the normalizer or times its reciprocal."""

    def log_sigmoid_decay(x: Tensor, *, normalizer: float) -> Tensor:
        rows = _softplus(-x.float(), softplus)
        return -rows / normalizer if divides else rows * (-1 / normalizer)

    return log_sigmoid_decay
