"""Cases and inputs of ``short_conv``."""

from dataclasses import dataclass
from typing import Any, ClassVar

from hypothesis import strategies as st

import reference
from harness.emulators import short_conv as emulator
from harness.operations.base import Inputs, Operation, Output
from harness.operations.case import Case
from harness.operations.values import Values, cotangents, lengths

__all__ = ["OPERATION", "ShortConvCase"]

AXES = ("batch", "token", "channel")
OUTPUTS = (Output(name="out", axes=AXES),)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortConvCase(Case):
    """``x`` is ``(batch, tokens, channels)``, ``weight`` ``(channels, taps)``."""

    op: ClassVar[str] = "short_conv"
    regimes: ClassVar[tuple[str, ...]] = ("normal", "tiny", "large", "zero_rows", "massive", "mean_shifted")

    batch: int
    tokens: int
    channels: int
    taps: int = 4
    mask: bool = False

    def check(self) -> None:
        """Refuses empty shapes."""
        for field in ("batch", "tokens", "channels", "taps"):
            self.at_least(field, 1)


def draw(largest: int) -> st.SearchStrategy[dict[str, Any]]:
    """Returns a strategy of shapes and options."""
    return st.fixed_dictionaries({
        "batch": st.integers(1, 3),
        "tokens": lengths(largest),
        "channels": lengths(largest),
        "taps": st.sampled_from([1, 2, 3, 4, 5]),
        "mask": st.booleans(),
    })  # fmt: skip


def make(case: ShortConvCase) -> Inputs:
    """Returns the inputs of a case."""
    values = Values(case)
    shape = (case.batch, case.tokens, case.channels)
    tensors = {
        "x": values.store(values.kind("x", shape, case.regime)),
        "weight": values.store(values.normal("weight", (case.channels, case.taps))),
    }
    if case.mask:
        tensors["mask"] = values.mask("mask", shape[:2])
    return Inputs(tensors=tensors, options={}, cotangents=cotangents(case, OUTPUTS, {"out": shape}))


OPERATION = Operation(
    case=ShortConvCase,
    strategy=draw,
    inputs=make,
    reference=reference.short_conv,
    emulate=emulator.emulate,
    outputs=OUTPUTS,
    positional=("x", "weight"),
    axes={"x": AXES, "weight": ("channel", "tap")},
    call="short_conv(x, weight, *, mask=None)",
)
