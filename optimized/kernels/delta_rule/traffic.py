"""How many bytes the gated delta rule moves, computed from the shapes of its launches.

Every kernel reads and writes tensors of known shapes, and what that makes for one token of one value head is a plain
sum. A tensor counts once in every kernel that touches it: the programs that hold the columns of one state run side by
side and find queries, keys and operands in the cache that another one has just filled. ``as_launched`` counts those
loads once per column block instead, which bounds what a cache has to serve. A chunk is full, and initial and final
states, whose share falls with the number of tokens, are left out.

``python -m optimized.kernels.delta_rule.traffic`` prints the table for ``D = V = 128`` in bfloat16. The neighbour's
figure, 4,756 bytes for the five forward kernels of fla 0.6, counts each tensor once in every kernel too. The floor
reads every input once and writes the output once.

Letters: ``G`` query/key heads, ``H`` value heads, ``D`` query/key width, ``V`` value width, ``C`` tokens of a chunk.
"""

import sys
from dataclasses import dataclass
from typing import Final

__all__ = ["FLA_FORWARD_BYTES", "Traffic", "TrafficShape", "backward_traffic", "floor_bytes", "forward_traffic", "main"]

FLA_FORWARD_BYTES: Final = 4756
"""Bytes per token and head of fla's forward pass at ``D = V = 128``, bfloat16, one query/key head a value head."""

_FLOAT32: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficShape:
    """What the bytes depend on.

    Attributes:
        head_width: ``D``.
        value_width: ``V``.
        chunk_size: ``C``.
        heads_per_key: value heads that share a query/key head, ``H / G``.
        storage_bytes: bytes of an element of queries, keys, values and outputs.
        gate_bytes: bytes of an element of log decays and of beta.
        is_normalized: whether queries and keys are normalised inside.
        column_blocks: programs that share the columns of a state.
    """

    head_width: int
    value_width: int
    chunk_size: int
    heads_per_key: int = 1
    storage_bytes: int = 2
    gate_bytes: int = 4
    is_normalized: bool = True
    column_blocks: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Bytes that one kernel moves per token and value head.

    Attributes:
        kernel: name of the kernel.
        shared_reads: bytes read by every program that holds columns of one state.
        reads: bytes read once.
        writes: bytes written.
    """

    kernel: str
    shared_reads: float = 0.0
    reads: float = 0.0
    writes: float = 0.0

    @property
    def total(self) -> float:
        """Bytes with every tensor counted once."""
        return self.shared_reads + self.reads + self.writes

    def as_launched(self, column_blocks: int) -> float:
        """Bytes with shared tensors counted once per column block."""
        return column_blocks * self.shared_reads + self.reads + self.writes


def floor_bytes(shape: TrafficShape) -> float:
    """Returns the bytes of a forward pass that reads each input and writes the output once."""
    return 2 * _row(shape.head_width, shape) / shape.heads_per_key + 2 * _row(shape.value_width, shape) + _gates(shape)


def forward_traffic(shape: TrafficShape) -> tuple[Traffic, ...]:
    """Returns the traffic of ``solve``, ``scores`` and ``carry_state``."""
    keys, values, norms = _row(shape.head_width, shape), _row(shape.value_width, shape), _norms(shape)
    square, sums = _row(shape.chunk_size, shape), 3 * _FLOAT32
    return (
        Traffic(
            kernel="solve",
            reads=keys + _gates(shape),
            writes=sums + square + norms / 2 / shape.heads_per_key,
        ),
        Traffic(
            kernel="scores",
            reads=2 * keys + shape.gate_bytes + norms / 2,
            writes=square + norms / 2 / shape.heads_per_key,
        ),
        Traffic(
            kernel="carry_state",
            shared_reads=2 * keys + norms + sums + 2 * square,
            reads=values,
            writes=values,
        ),
    )


def backward_traffic(shape: TrafficShape) -> tuple[Traffic, ...]:
    """Returns the traffic of ``carry_state`` again, ``carry_cotangent``, ``pairs`` and the two gradient kernels.

    The gradient kernels read queries and keys once for all value heads of a group.
    """
    keys, values, norms = _row(shape.head_width, shape), _row(shape.value_width, shape), _norms(shape)
    square, sums, gate = _row(shape.chunk_size, shape), 2 * _FLOAT32, shape.gate_bytes
    state = _FLOAT32 * shape.head_width * shape.value_width / shape.chunk_size
    rows = 3 if shape.is_normalized else 2
    return (
        Traffic(
            kernel="carry_state",
            shared_reads=keys + norms / 2 + sums + _FLOAT32 + square,
            reads=values,
            writes=state + values,
        ),
        Traffic(
            kernel="carry_cotangent",
            shared_reads=2 * keys + norms + sums + _FLOAT32 + 2 * square,
            reads=values,
            writes=state + 2 * values,
        ),
        Traffic(
            kernel="pairs",
            reads=4 * values + 2 * keys + norms + _gates(shape),
            writes=2 * square + sums,
        ),
        Traffic(
            kernel="query_gradient",
            reads=(rows * keys + norms) / shape.heads_per_key + state + values + square + _FLOAT32,
            writes=keys / shape.heads_per_key + _FLOAT32,
        ),
        Traffic(
            kernel="key_gradient",
            reads=(rows * keys + norms) / shape.heads_per_key
            + 2 * state
            + 2 * values
            + 2 * square
            + gate
            + sums
            + 3 * _FLOAT32,
            writes=keys / shape.heads_per_key + 2 * gate,
        ),
    )


def main() -> None:
    """Prints the bytes of every kernel at ``D = V = 128`` in bfloat16, beside fla's and the floor."""
    shape = TrafficShape(head_width=128, value_width=128, chunk_size=64, column_blocks=2)
    lines = ["bytes per token and value head, D = V = 128, bfloat16, chunk 64, H = G"]
    for title, kernels in (("forward", forward_traffic(shape)), ("backward", backward_traffic(shape))):
        lines += [
            f"  {kernel.kernel:<18}{kernel.total:>8,.0f}   as launched {kernel.as_launched(shape.column_blocks):>8,.0f}"
            for kernel in kernels
        ]
        total = sum(kernel.total for kernel in kernels)
        launched = sum(kernel.as_launched(shape.column_blocks) for kernel in kernels)
        lines.append(f"{title:<20}{total:>8,.0f}   as launched {launched:>8,.0f}")
    lines += [f"fla, forward        {FLA_FORWARD_BYTES:>8,}", f"floor, forward      {floor_bytes(shape):>8,.0f}"]
    sys.stdout.write("\n".join(lines) + "\n")


def _row(width: int, shape: TrafficShape) -> float:
    return width * shape.storage_bytes


def _gates(shape: TrafficShape) -> float:
    return 2 * shape.gate_bytes


def _norms(shape: TrafficShape) -> float:
    return 2 * _FLOAT32 if shape.is_normalized else 0


if __name__ == "__main__":
    main()
