"""Faults of the decay gates."""

from collections.abc import Callable

import torch
from torch import Tensor

from harness.power.fault import Fault
from optimized.eager.mamba_decay import mamba_decay
from tests.faults.seeding import Call, seeded

__all__ = ["FAULTS"]

FLOOR = -4096.0
"""Floor of the log decay, below all that a case holds: a healthy gate never meets it."""


def _clamped() -> Call:
    """Returns the gate with a floor."""
    return lambda *args: mamba_decay(*args).clamp(min=FLOOR)


def _clamped_before_sign(_: Call) -> Call:
    """Returns the gate whose floor is applied before the sign."""
    return lambda *args: -(-mamba_decay(*args)).clamp(max=FLOOR)


def _of_one_plus(x: Tensor) -> Tensor:
    """Returns ``log(1 + x)``, which is 0 where x vanishes beside 1."""
    return torch.log(1 + x)


def _softplus(x: Tensor, logarithm: Callable[[Tensor], Tensor]) -> Tensor:
    below, above = x.clamp(max=0), x.clamp(min=0)
    return torch.where(x > 0, above + logarithm(torch.exp(-above)), logarithm(torch.exp(below)))


def _mamba(logarithm: Callable[[Tensor], Tensor]) -> Call:
    def call(x: Tensor, a_log: Tensor, dt_bias: Tensor) -> Tensor:
        return -(a_log.float().exp() * _softplus(x.float() + dt_bias.float(), logarithm))

    return call


def _log_sigmoid(logarithm: Callable[[Tensor], Tensor]) -> Call:
    def call(x: Tensor, *, normalizer: float) -> Tensor:
        return -_softplus(-x.float(), logarithm) / normalizer

    return call


FAULTS: tuple[Fault, ...] = (
    seeded("B067", "floor-before-sign", "mamba_decay", _clamped_before_sign, base=_clamped,
           what="The minus sign is applied after the floor, so that the state grows by the floor whatever the input.",
           source="flash-linear-attention #1012", detectors=("VAL",)),
    seeded("Y010a", "softplus-by-log", "mamba_decay", lambda _: _mamba(_of_one_plus),
           base=lambda: _mamba(torch.log1p),
           what="Softplus is log(1 + exp(x)), which is 0 where it should be exp(x).",
           source="planted", detectors=("VAL",), regimes=("normal", "slow", "wide", "zero_rows")),
    seeded("Y010b", "sigmoid-by-log", "log_sigmoid_decay", lambda _: _log_sigmoid(_of_one_plus),
           base=lambda: _log_sigmoid(torch.log1p),
           what="log(sigmoid(x)) is -log(1 + exp(-x)), which is 0 where it should be -exp(-x).",
           source="planted", detectors=("VAL",), regimes=("normal", "slow", "wide", "zero_rows")),
)  # fmt: skip
