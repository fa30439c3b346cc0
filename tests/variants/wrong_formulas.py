"""Faults in the formula: a factor, an index, an order or a gradient that is wrong.

Letters: B batch, T tokens, S key tokens, H query or value heads, G key/value or query/key heads.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "decay_after_write",
    "eps_outside_root",
    "gate_before_norm",
    "gate_by_sigmoid",
    "gated_eps_outside_root",
    "heads_tiled",
    "lse_base_two",
    "lse_gradient_dropped",
    "mask_ignored",
    "query_gradient_unscaled",
    "read_before_write",
    "rule_heads_tiled",
    "scaled_argument",
    "scaled_option",
    "silu_by_tanh",
    "sink_scaled",
    "state_gradient_dropped",
    "taps_flipped",
    "window_off_by_one",
]

Call = Callable[..., Any]


def scaled_option(name: str, factor: float) -> Callable[[Call], Call]:
    """Returns a fault that multiplies a keyword argument."""
    return lambda base: lambda *args, **kwargs: base(*args, **{**kwargs, name: kwargs[name] * factor})


def scaled_argument(position: int, factor: float) -> Callable[[Call], Call]:
    """Returns a fault that multiplies a positional tensor in float32; None stays None."""

    def seed(base: Call) -> Call:
        def call(*args: Any, **kwargs: Any) -> Any:
            changed = list(args)
            if changed[position] is not None:
                changed[position] = changed[position].float() * factor
            return base(*changed, **kwargs)

        return call

    return seed


def window_off_by_one(base: Call) -> Call:
    """Returns attention whose left window counts the token itself: one key too few."""

    def call(*args: Any, window: tuple[int | None, int | None] = (None, None), **kwargs: Any) -> Any:
        left, right = window
        return base(*args, window=(None if left is None else left - 1, right), **kwargs)

    return call


def heads_tiled(base: Call) -> Call:
    """Returns attention whose query head h reads key/value head ``h % G``."""

    def call(query: Tensor, key: Tensor, value: Tensor, **kwargs: Any) -> Any:
        group = query.shape[2] // key.shape[2]
        return base(query, *(item.float().repeat(1, 1, group, 1) for item in (key, value)), **kwargs)

    return call


def sink_scaled(base: Call) -> Call:
    """Returns attention whose sinks are multiplied by the softmax scale."""

    def call(*args: Any, scale: float, sinks: Tensor | None = None, **kwargs: Any) -> Any:
        return base(*args, scale=scale, sinks=None if sinks is None else sinks.float() * scale, **kwargs)

    return call


def lse_base_two(base: Call) -> Call:
    """Returns attention whose LSE is a logarithm to base 2."""

    def call(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        out, lse = base(*args, **kwargs)
        return out, lse / math.log(2)

    return call


def lse_gradient_dropped(base: Call) -> Call:
    """Returns attention through whose LSE no gradient flows."""

    def call(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        out, lse = base(*args, **kwargs)
        return out, lse.detach()

    return call


def state_gradient_dropped(base: Call) -> Call:
    """Returns the delta rule through whose final state no gradient flows."""

    def call(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        out, state = base(*args, **kwargs)
        return out, state.detach()

    return call


def query_gradient_unscaled(base: Call) -> Call:
    """Returns attention whose query gradient lacks the softmax scale."""

    def call(query: Tensor, *args: Any, scale: float, **kwargs: Any) -> Any:
        seen = query.view_as(query)
        seen.register_hook(lambda grad: grad / scale)  # type: ignore[no-untyped-call]  # torch's own
        return base(seen, *args, scale=scale, **kwargs)

    return call


def mask_ignored(base: Call) -> Call:
    """Returns attention that sees masked keys."""

    def call(*args: Any, key_mask: Tensor | None = None, **kwargs: Any) -> Any:
        del key_mask
        return base(*args, **kwargs)

    return call


def rule_heads_tiled(base: Call) -> Call:
    """Returns the delta rule whose value head h uses query/key head ``h % G``."""

    def call(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **kwargs: Any) -> Any:
        group = value.shape[2] // query.shape[2]
        return base(*(item.float().repeat(1, 1, group, 1) for item in (query, key)), value, *rest, **kwargs)

    return call


def decay_after_write(base: Call) -> Call:
    """Returns the delta rule whose token decays the state after it wrote and read: the next token's decay is late.

    The same as a decay that is shifted by one token; the last one acts on the final state.
    """

    def call(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        query, key, value, log_decay, beta = args
        if log_decay is None or kwargs.get("cu_seqlens") is not None:
            out, state = base(*args, **kwargs)
            return out, state
        late = torch.cat([torch.zeros_like(log_decay[:, :1]), log_decay[:, :-1]], 1)
        out, state = base(query, key, value, late, beta, **kwargs)
        return out, state * log_decay[:, -1].float().exp()[..., None, None]

    return call


def read_before_write(base: Call) -> Call:
    """Returns the delta rule that reads the state before the token is written: each read is one token late."""

    def call(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        out, state = base(*args, **kwargs)
        return torch.cat([torch.zeros_like(out[:, :1]), out[:, :-1]], 1), state

    return call


def eps_outside_root(base: Call) -> Call:  # noqa: ARG001 - one signature
    """Returns ``rms_norm`` that adds eps to the root."""

    def call(x: Tensor, weight: Tensor, *, eps: float, zero_centered: bool = False) -> Tensor:
        wide = x.float()
        gain = weight.float() + 1 if zero_centered else weight.float()
        # The smallest normal number keeps the gradient of a zero row finite.
        root = (wide.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).tiny).sqrt()
        return (wide / (root + eps) * gain).to(x.dtype)

    return call


def gated_eps_outside_root(base: Call) -> Call:
    """Returns ``gated_rms_norm`` that adds eps to the root."""
    norm = eps_outside_root(base)

    def call(x: Tensor, gate: Tensor, weight: Tensor, **kwargs: Any) -> Tensor:
        rows: Tensor = norm(x.float(), weight, **kwargs)
        return (torch.nn.functional.silu(gate.float()) * rows).to(x.dtype)

    return call


def gate_by_sigmoid(base: Call) -> Call:
    """Returns ``gated_rms_norm`` with the gate of an attention layer, ``sigmoid(gate)``."""

    def call(x: Tensor, gate: Tensor, weight: Tensor, **kwargs: Any) -> Tensor:
        # A gate beyond 88 makes silu(gate) = gate exactly, so that what is left of the base is its norm.
        rows: Tensor = base(x.float(), torch.full_like(gate.float(), 128.0), weight, **kwargs) / 128.0
        return (torch.sigmoid(gate.float()) * rows).to(x.dtype)

    return call


def gate_before_norm(base: Call) -> Call:
    """Returns ``gated_rms_norm`` that normalises what is already gated."""

    def call(x: Tensor, gate: Tensor, weight: Tensor, **kwargs: Any) -> Tensor:
        gated = torch.nn.functional.silu(gate.float()) * x.float()
        rows: Tensor = base(gated, torch.full_like(gated, 128.0), weight, **kwargs) / 128.0
        return rows.to(x.dtype)

    return call


def silu_by_tanh(base: Call) -> Call:  # noqa: ARG001 - one signature
    """Returns ``silu_mul`` as ``gate / 2 (1 + tanh(gate / 2))``, whose sum cancels for gates far below 0."""

    def call(gate: Tensor, x: Tensor) -> Tensor:
        half = gate.float() / 2
        return (half * (1 + torch.tanh(half)) * x.float()).to(x.dtype)

    return call


def taps_flipped(base: Call) -> Call:
    """Returns ``short_conv`` whose first tap is that of the current token."""
    return lambda x, weight, **kwargs: base(x, weight.flip(-1), **kwargs)
