"""The floor of an operation: the bytes that it must move and the operations of its matrix products, over two ceilings.

Each input is read once and each output written once; backward reads the inputs and the cotangents and writes the
gradients. Pairs that a mask hides cost nothing, and keys that no query sees are not read. Elementwise arithmetic and
exponentials are left out, so that a floor is never too high: no implementation is faster but by a fault of the
measurement.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.bench.calls import PHASES
from harness.operations.base import Inputs, Operation
from harness.operations.case import Case
from harness.ops import operation

__all__ = ["Ceilings", "Cost", "cost", "floor_us"]

Window = tuple[int | None, int | None]

_LINEAR = frozenset({"rope"})
"""Operations whose backward pass does not read what their gradients belong to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """What the machine can do at most, measured in the same run; None where it was not measured.

    Attributes:
        copy_gb_s: bytes read and written by a copy, in 1e9 per second.
        matmul_tflop_s: of a matrix product, in 1e12 per second.
    """

    copy_gb_s: float | None
    matmul_tflop_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a phase of a call must do.

    Attributes:
        bytes: moved to and from memory.
        flops: floating-point operations of matrix products, a multiplication and an addition each counted as one.
    """

    bytes: float
    flops: float


def cost(case: Case, inputs: Inputs, phase: str) -> Cost:
    """Returns the least that a phase must do.

    Args:
        case: its shape.
        inputs: its tensors; an output without a cotangent is not counted.
        phase: one of ``PHASES``.
    """
    if phase == PHASES[2]:
        there, back = (cost(case, inputs, each) for each in PHASES[:2])
        return Cost(bytes=there.bytes + back.bytes, flops=there.flops + back.flops)
    row = operation(case.op)
    fields: Mapping[str, Any] = case.to_data()
    is_backward = phase == PHASES[1]
    moved = sum(map(_size, inputs.cotangents.values())) + _read(row, fields, inputs)
    if is_backward:
        # A linear operation's gradient depends on its cotangent alone: it is written in place of what is not read.
        written = sum(_size(inputs.tensors[name]) for name in row.differentiable(inputs.tensors))
        moved += 0 if row.name in _LINEAR else written
    return Cost(bytes=float(moved), flops=float(_products(fields, inputs, is_backward=is_backward)))


def floor_us(least: Cost, ceilings: Ceilings) -> float | None:
    """Returns the shortest time in microseconds; None without ceilings."""
    if ceilings.copy_gb_s is None or ceilings.matmul_tflop_s is None:
        return None
    return max(least.bytes / (ceilings.copy_gb_s * 1e3), least.flops / (ceilings.matmul_tflop_s * 1e6))


def _size(item: Tensor) -> int:
    return item.numel() * item.element_size()


def _read(row: Operation, fields: Mapping[str, Any], inputs: Inputs) -> float:
    """Returns the bytes of the inputs, keys and values that no window reaches left out."""
    total = float(sum(map(_size, inputs.tensors.values())))
    if row.name not in {"attention", "varlen_attention", "flash_sdpa"}:
        return total
    unseen = 0.0
    keys = sum(S for _, S in _sequences(fields))
    for T, S in _sequences(fields):
        unseen += S - _reached(T, S, _window(fields))
    for name in ("key", "value", "key_states", "value_states"):
        if name in inputs.tensors:
            total -= _size(inputs.tensors[name]) * unseen / keys
    return total


def _products(fields: Mapping[str, Any], inputs: Inputs, *, is_backward: bool) -> float:
    """Returns the operations of all matrix products of an operation."""
    match fields["op"]:
        case "attention" | "varlen_attention" | "flash_sdpa":
            pairs = _pairs(fields, inputs) * fields["key_heads"] * fields["group"]
            return _attention(pairs, fields["head_dim"], fields["value_dim"], is_backward=is_backward)
        case "grouped_query_attention":
            pairs = _pairs(fields, inputs) * fields["key_heads"] * fields["group"]
            core = _attention(pairs, fields["head_dim"], fields["head_dim"], is_backward=is_backward)
        case "multi_head_latent_attention":
            width = fields["nope_dim"] + fields["rope_dim"]
            pairs = _pairs(fields, inputs) * fields["heads"]
            core = _attention(pairs, width, fields["value_dim"], is_backward=is_backward)
        case "gated_delta_rule" | "gated_delta_net":
            # The recurrence itself: the state read by the key, its update, the state read by the query.
            heads = fields["batch"] * fields["key_heads"] * fields["group"]
            core = 6 * fields["tokens"] * heads * fields["key_dim"] * fields["value_dim"] * (2 if is_backward else 1)
        case _:
            core = 0.0
    return core + _projections(fields, inputs) * (2 if is_backward else 1)


def _attention(pairs: float, width: int, value_width: int, *, is_backward: bool) -> float:
    """Scores and their product with the values; backward the scores again, and four gradients."""
    return 2 * pairs * (3 * width + 2 * value_width if is_backward else width + value_width)


def _projections(fields: Mapping[str, Any], inputs: Inputs) -> float:
    """Returns those of a layer's projections: every token meets every weight of a matrix."""
    matrices = [item for name, item in inputs.tensors.items() if name.endswith("proj.weight")]
    return float(sum(2 * fields["batch"] * fields["tokens"] * item.numel() for item in matrices))


def _sequences(fields: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Returns the numbers of queries and of keys of every sequence, of one head."""
    if fields["op"] == "varlen_attention":
        return list(zip(fields["query_lengths"], fields["key_lengths"], strict=True))
    if "query_tokens" in fields:
        return [(fields["query_tokens"], fields["key_tokens"])] * fields["batch"]
    return [(fields["tokens"], fields["tokens"])] * fields["batch"]


def _window(fields: Mapping[str, Any]) -> Window:
    if "is_causal" in fields:
        return (fields.get("window_size"), 0) if fields["is_causal"] else (None, None)
    return fields["window_left"], fields["window_right"]


def _pairs(fields: Mapping[str, Any], inputs: Inputs) -> int:
    """Returns how many pairs of query and key a mask leaves, of one head of every sequence."""
    mask = inputs.tensors.get("key_mask", inputs.tensors.get("attention_mask"))
    total = 0
    for row, (T, S) in enumerate(_sequences(fields)):
        low, high = _bounds(T, S, _window(fields))
        kept = torch.ones(S, dtype=torch.int64) if mask is None else mask[row].to("cpu", torch.int64)
        before = torch.cat((torch.zeros(1, dtype=torch.int64), kept.cumsum(0)))
        total += int((before[high] - before[low]).sum())
    return total


def _bounds(T: int, S: int, window: Window) -> tuple[Tensor, Tensor]:
    """Returns, for every query, the first key that it sees and the first one after those; the last tokens meet."""
    left, right = (math.inf if side is None else side for side in window)
    place = torch.arange(T) + (S - T)
    low = (place - int(min(left, T + S))).clamp(0, S)
    high = (place + int(min(right, T + S)) + 1).clamp(0, S)
    return low, torch.maximum(low, high)


def _reached(T: int, S: int, window: Window) -> int:
    """Returns how many keys some query sees: neighbouring queries see neighbouring keys, so that they are one piece."""
    low, high = _bounds(T, S, window)
    seen = high > low
    return int(high[seen].max() - low[seen].min()) if bool(seen.any()) else 0
