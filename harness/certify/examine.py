"""Examines one case: its enclosure in balls, what an implementation returns, and the distance between the two."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flint
import numpy as np
import torch

from harness.certify import attention, delta_rule, elementwise, layers
from harness.certify.balls import Array, Ball, conditions, gradients, leaves
from harness.certify.case import Case, Draw, Numbers, call

__all__ = ["ENCLOSURES", "Enclosed", "distances", "enclose", "evaluate"]

ENCLOSURES: Mapping[str, Callable[..., Any]] = {
    "rms_norm": elementwise.rms_norm,
    "gated_rms_norm": elementwise.gated_rms_norm,
    "l2_norm": elementwise.l2_norm,
    "rope": elementwise.rope,
    "rope_tables": elementwise.rope_tables,
    "short_conv": elementwise.short_conv,
    "silu_mul": elementwise.silu_mul,
    "mamba_decay": elementwise.mamba_decay,
    "log_sigmoid_decay": elementwise.log_sigmoid_decay,
    "attention": attention.attention,
    "varlen_attention": attention.varlen_attention,
    "gated_delta_rule": delta_rule.gated_delta_rule,
    "low_rank_projection": layers.low_rank_projection,
    "flash_sdpa": layers.flash_sdpa,
    "grouped_query_attention": layers.grouped_query_attention,
    "multi_head_latent_attention": layers.multi_head_latent_attention,
    "gated_delta_net": layers.gated_delta_net,
}

_EPS = float(np.finfo(np.float64).eps)
_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, slots=True, kw_only=True)
class Enclosed:
    """One output or gradient: its balls and the condition of every element, in the tensor's shape."""

    balls: Array
    conditions: Numbers

    @property
    def radius(self) -> float:
        """Largest radius in units of ``eps * condition``; the resolution of the certificate."""
        ratios = (
            float(ball.value.rad()) / _unit(float(condition))
            for ball, condition in zip(self.balls.flat, self.conditions.flat, strict=True)
            if ball.value.is_finite()
        )
        return max(ratios, default=0.0)


def enclose(case: Case, *, bits: int) -> dict[str, Enclosed]:
    """Returns every output and gradient of a case, enclosed at a precision of ``bits``."""
    with flint.ctx.workprec(bits):
        inputs = {name: leaves(numbers) for name, numbers in case.inputs.items()}
        results = _named(call(ENCLOSURES[case.op], case, {**inputs, **case.constants}))
        cotangents = {name: leaves(numbers) for name, numbers in _cotangents(case, results).items()}
        if inputs:
            results |= _enclosed_gradients(inputs, results, cotangents)
        scales = conditions([ball for balls in results.values() for ball in balls.flat])
    enclosed = {}
    for name, balls in results.items():
        own, scales = scales[: balls.size], scales[balls.size :]
        enclosed[name] = Enclosed(balls=balls, conditions=own.reshape(balls.shape))
    return enclosed


def _enclosed_gradients(
    inputs: Mapping[str, Array], outputs: Mapping[str, Array], cotangents: Mapping[str, Array]
) -> dict[str, Array]:
    found = iter(
        gradients(
            [ball for balls in outputs.values() for ball in balls.flat],
            [ball for name in outputs for ball in cotangents[name].flat],
            [ball for balls in inputs.values() for ball in balls.flat],
        )
    )
    results = {}
    for name, balls in inputs.items():
        results[f"grad:{name}"] = gradient = np.empty(balls.shape, dtype=object)
        for index in np.ndindex(balls.shape):
            gradient[index] = next(found)
    return results


def evaluate(case: Case, function: Callable[..., Any]) -> dict[str, Numbers]:
    """Returns every output and gradient of an implementation in torch, which has the call of the operation."""
    inputs = {name: torch.tensor(numbers, requires_grad=True) for name, numbers in case.inputs.items()}
    constants = {name: torch.tensor(numbers) for name, numbers in case.constants.items()}
    outputs: dict[str, torch.Tensor] = _named(call(function, case, {**inputs, **constants}))
    found = {name: output.detach().numpy() for name, output in outputs.items()}
    if inputs:
        cotangents = _cotangents(case, found)
        grads = torch.autograd.grad(
            [output for output in outputs.values() if output.requires_grad],
            list(inputs.values()),
            [torch.tensor(cotangents[name]) for name, output in outputs.items() if output.requires_grad],
            allow_unused=True,
            materialize_grads=True,
        )
        found |= {f"grad:{name}": grad.numpy() for name, grad in zip(inputs, grads, strict=True)}
    return found


def distances(expected: Enclosed, actual: Numbers) -> Numbers:
    """Returns ``|actual - ball| / (eps * condition)`` of every element, to the far side of the ball.

    A wrong shape or dtype and a value that is not a number are infinitely far, and so is everything whose condition is
    not finite, for that would excuse any error.
    """
    if actual.shape != expected.balls.shape or actual.dtype != np.float64:
        return np.full(expected.balls.shape or (1,), np.inf)
    found = np.empty(actual.shape)
    for index in np.ndindex(actual.shape):
        ball: Ball = expected.balls.item(index)
        found[index] = _distance(ball, float(actual[index]), float(expected.conditions[index]))
    return found


def _distance(ball: Ball, actual: float, condition: float) -> float:
    if ball.value.is_zero() or not (ball.value.is_finite() and np.isfinite(actual)):
        return 0.0 if actual == float(ball.value.mid()) else np.inf
    if not np.isfinite(condition):
        return np.inf
    return float(abs(ball.value - flint.arb(actual)).upper()) / _unit(condition)


def _unit(condition: float) -> float:
    return max(_EPS * condition, _TINY)


def _named(result: object) -> dict[str, Any]:
    if isinstance(result, dict):
        return dict(result)
    fields = getattr(result, "_asdict", None)
    return {"out": result} if fields is None else dict(fields())


def _cotangents(case: Case, outputs: Mapping[str, Any]) -> dict[str, Numbers]:
    draw = Draw(*case.seed, 1)
    return {name: draw.normal(*output.shape) for name, output in sorted(outputs.items())}
