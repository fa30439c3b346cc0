"""The floor of an operation: the bytes that it must move and the operations of its matrix products, over two ceilings.

Each input is read once and each output written once; backward reads the inputs and the cotangent and writes the
gradients. No implementation is faster but by a fault of the measurement.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.operations.base import Inputs
from harness.operations.case import Case

__all__ = ["PHASES", "Ceilings", "cost", "floor_us"]

PHASES = ("forward", "backward", "forward+backward")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """What the machine can do at most, measured in the same run; None where it was not measured.

    Attributes:
        copy_gb_s: bytes read and written by a copy, in 1e9 per second.
        matmul_tflop_s: of a matrix product of 16-bit operands, in 1e12 per second.
    """

    copy_gb_s: float | None
    matmul_tflop_s: float | None


def cost(case: Case, inputs: Inputs, phase: str) -> tuple[float, float]:
    """Returns the bytes and the floating-point operations of matrix products of a phase."""
    read = sum(item.numel() * item.element_size() for item in inputs.tensors.values())
    out = sum(item.numel() * item.element_size() for item in inputs.cotangents.values())
    forward = (float(read + out), _forward_flops(case))
    backward = (float(2 * read + out), _BACKWARD.get(case.op, 0.0) * forward[1])
    return {
        "forward": forward,
        "backward": backward,
        "forward+backward": (forward[0] + backward[0], forward[1] + backward[1]),
    }[phase]


def floor_us(case: Case, inputs: Inputs, phase: str, ceilings: Ceilings) -> float | None:
    """Returns the shortest time in microseconds; None without ceilings."""
    if ceilings.copy_gb_s is None or ceilings.matmul_tflop_s is None:
        return None
    count, flops = cost(case, inputs, phase)
    return max(count / (ceilings.copy_gb_s * 1e3), flops / (ceilings.matmul_tflop_s * 1e6))


_BACKWARD = {"attention": 2.5, "gated_delta_rule": 2.0}
"""Operations of matrix products backward per one forward: scores again, and four gradients, over two products."""


def _forward_flops(case: Case) -> float:
    fields: Mapping[str, Any] = case.to_data()
    if case.op == "attention":
        heads = fields["key_heads"] * fields["group"]
        widths = fields["head_dim"] + fields["value_dim"]
        return float(2 * fields["batch"] * heads * widths * _visible_pairs(fields))
    if case.op == "gated_delta_rule":
        # The recurrence itself: the state read by the key, its update, the state read by the query.
        heads = fields["key_heads"] * fields["group"]
        return float(6 * fields["batch"] * fields["tokens"] * heads * fields["key_dim"] * fields["value_dim"])
    return 0.0


def _visible_pairs(fields: Mapping[str, Any]) -> int:
    """Returns how many pairs of query and key a window leaves."""
    T, S = fields["query_tokens"], fields["key_tokens"]
    left, right = fields["window_left"], fields["window_right"]
    total = 0
    for token in range(T):
        place = token + S - T
        low = 0 if left is None else max(0, place - left)
        high = S - 1 if right is None else min(S - 1, place + right)
        total += max(0, high - low + 1)
    return total
