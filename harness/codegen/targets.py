"""What the installed kernels are to be on the cases that they are compared on: few launches, few bytes, no spills.

Evidence about code. Bytes are those of the tensors that launches are given, beside what a call must read and write
(``harness.bench.costs``): a norm, a convolution or a gate is one read and one write.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from harness.bench.costs import cost
from harness.cases import case_from_data
from harness.codegen.beside import places
from harness.codegen.results import CompiledKernel, Examination
from harness.ops import operation

__all__ = ["TARGETS", "Target", "missed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Of one operation and pass.

    Attributes:
        kernels: launches at most.
        bytes: per token and head at most.
        floors: bytes at most, in units of what the pass must move.
    """

    kernels: int
    bytes: float | None = None
    floors: float | None = None


_ONE_PASS = Target(kernels=1, floors=1.1)
_WITH_PARTS = Target(kernels=1, floors=1.2)
"""Beside one pass, the parts of a sum over all rows, which a second and small pass adds up."""

TARGETS: Mapping[str, tuple[Target, Target]] = {
    "gated_delta_rule": (Target(kernels=3, bytes=2400), Target(kernels=5)),
    "rms_norm": (_ONE_PASS, _WITH_PARTS),
    "gated_rms_norm": (_ONE_PASS, _WITH_PARTS),
    "l2_norm": (_ONE_PASS, _ONE_PASS),
    "rope": (_ONE_PASS, _ONE_PASS),
    "short_conv": (_ONE_PASS, _WITH_PARTS),
    "silu_mul": (_ONE_PASS, _ONE_PASS),
    "mamba_decay": (_ONE_PASS, _WITH_PARTS),
    "log_sigmoid_decay": (_ONE_PASS, _ONE_PASS),
}
"""By operation, forward and backward. The delta rule's are those of two passes, "prepare" and "state and output"."""


def missed(items: Iterable[Examination]) -> list[str]:
    """Returns a sentence for every target that a candidate misses on an architecture, and for every spill on Hopper."""
    return [sentence for item in items if item.status == "ok" for sentence in _missed(item)]


def _missed(item: Examination) -> Iterator[str]:
    for phase, target in zip(("forward", "backward"), TARGETS.get(item.op, ()), strict=False):
        own = [kernel for kernel in item.kernels if kernel.phase == phase]
        if own:
            for what, got, most in _figures(item, phase, own, target):
                if got > most:
                    yield f"{item.candidate} on {item.arch}, {phase}: got {got:,.6g} {what}, expected <= {most:,.6g}"


def _figures(
    item: Examination, phase: str, own: list[CompiledKernel], target: Target
) -> Iterator[tuple[str, float, float]]:
    """Yields what is counted, how much of it there is, and how much may be."""
    yield "launches", sum(kernel.launches for kernel in own), target.kernels
    moved = sum(kernel.tensor_bytes for kernel in own) / places(item.case)
    if target.bytes is not None:
        yield "bytes per token and head", moved, target.bytes
    if target.floors is not None:
        case = case_from_data(dict(item.case))
        least = cost(case, operation(case.op).inputs(case), phase).bytes / places(item.case)
        yield f"bytes per token and head, the least is {least:,.0f}", moved, target.floors * least
