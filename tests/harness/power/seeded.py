"""A small catalogue on ``rms_norm``: a fault, one that does nothing, one that needs an option, one of memory."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from harness.power.fault import Fault
from optimized.candidate import Candidate, Recipe

__all__ = ["CANDIDATES", "FAULTS", "NOT_SEEDED", "SURVIVORS"]

Call = Callable[..., Tensor]


def norm(x: Tensor, weight: Tensor, *, eps: float, zero_centered: bool = False) -> Tensor:
    wide = x.float()
    gain = weight.float() + 1 if zero_centered else weight.float()
    return (wide * (wide.square().mean(-1, keepdim=True) + eps).rsqrt() * gain).to(x.dtype)


def one_percent(x: Tensor, weight: Tensor, **options: Any) -> Tensor:
    return (norm(x, weight, **options).float() * 1.01).to(x.dtype)


def same(x: Tensor, weight: Tensor, **options: Any) -> Tensor:
    return norm(x, weight, **options)


def not_centered(x: Tensor, weight: Tensor, *, eps: float, zero_centered: bool = False) -> Tensor:  # noqa: ARG001 - the fault
    return norm(x, weight, eps=eps)


def input_written(x: Tensor, weight: Tensor, **options: Any) -> Tensor:
    result = norm(x, weight, **options)
    x.data[(0,) * x.dim()].neg_()
    return result


def raising(x: Tensor, weight: Tensor, **options: Any) -> Tensor:  # noqa: ARG001 - one signature
    raise RuntimeError("badly seeded")


def fault(number: str, call: Call, *, detector: str = "VAL", reach: Mapping[str, Any] | None = None) -> Fault:
    name = call.__name__.replace("_", "-")

    def candidate(title: str, each: Call, storage: str) -> Candidate:
        recipe = Recipe(storage=storage, operand="float32", accumulator="float32")
        return Candidate(
            name=f"{title}-{storage}", op="rms_norm", load=LOADS.setdefault(each, lambda: each), recipe=recipe
        )

    return Fault(
        id=number, name=name, op="rms_norm", what=f"{name}.", source="made up", detectors=(detector,), phase="forward",
        reach=reach or {}, largest=12,
        pairs={
            storage: (candidate(name, call, storage), candidate(f"{name}-healthy", norm, storage))
            for storage in ("float32", "bfloat16")
        },
    )  # fmt: skip


LOADS: dict[Call, Callable[[], Call]] = {}

FAULTS = (
    fault("T001", one_percent),
    fault("T002", same),
    fault("T003", not_centered, reach={"zero_centered": True}),
    fault("T004", input_written, detector="MEM"),
    fault("T005", raising),
)
CANDIDATES = tuple(item for each in FAULTS for pair in each.pairs.values() for item in pair)
NOT_SEEDED = {"T999": "needs two machines"}
SURVIVORS = {"T002": "it is no fault"}
