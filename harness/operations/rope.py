"""Cases and inputs of ``rope``."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from hypothesis import strategies as st

import reference
from harness.emulators import rope as emulator
from harness.operations.base import Inputs, Operation, Output
from harness.operations.case import Case
from harness.operations.values import Values, cotangents, lengths, rope_angles

__all__ = ["OPERATION", "RopeCase"]

AXES = ("batch", "token", "head", "channel")
OUTPUTS = (Output(name="out", axes=AXES),)


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeCase(Case):
    """``x`` is ``(batch, tokens, heads, width)``; every batch row has positions of its own."""

    op: ClassVar[str] = "rope"
    regimes: ClassVar[tuple[str, ...]] = ("normal", "tiny", "large", "two_valued", "massive")

    batch: int
    tokens: int
    heads: int
    width: int
    style: str = "half"

    def check(self) -> None:
        """Refuses empty shapes, an odd width and an unknown style."""
        for field in ("batch", "tokens", "heads"):
            self.at_least(field, 1)
        self.even("width")
        self.one_of("style", ("half", "interleaved"))


def draw(largest: int) -> st.SearchStrategy[dict[str, Any]]:
    """Returns a strategy of shapes and options."""
    return st.fixed_dictionaries({
        "batch": st.integers(1, 3),
        "tokens": lengths(largest),
        "heads": st.integers(1, 5),
        "width": st.sampled_from([2, 4, 6, 8, 16, 40, 64, 72, 128]),
        "style": st.sampled_from(["half", "interleaved"]),
    })  # fmt: skip


def make(case: RopeCase) -> Inputs:
    """Returns the inputs of a case."""
    values = Values(case)
    shape = (case.batch, case.tokens, case.heads, case.width)
    angles = rope_angles(values, case.batch, case.tokens, case.width, case.style)
    return Inputs(
        tensors={
            "x": values.store(values.kind("x", shape, case.regime)),
            "cos": values.store(torch.cos(angles)),
            "sin": values.store(torch.sin(angles)),
        },
        options={"style": case.style},
        cotangents=cotangents(case, OUTPUTS, {"out": shape}),
    )


OPERATION = Operation(
    case=RopeCase,
    strategy=draw,
    inputs=make,
    reference=reference.rope,
    emulate=emulator.emulate,
    outputs=OUTPUTS,
    positional=("x", "cos", "sin"),
    axes={"x": AXES},
    call="rope(x, cos, sin, *, style)",
)
