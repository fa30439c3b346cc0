"""Cases and inputs of ``rms_norm``."""

from dataclasses import dataclass
from typing import Any, ClassVar

from hypothesis import strategies as st

import reference
from harness.emulators import rms_norm as emulator
from harness.operations.base import Inputs, Operation, Output
from harness.operations.case import Case
from harness.operations.values import Values, cotangents, lengths

__all__ = ["OPERATION", "RmsNormCase"]

OUTPUTS = (Output(name="out", axes=("batch", "token", "channel")),)


@dataclass(frozen=True, slots=True, kw_only=True)
class RmsNormCase(Case):
    """``x`` is ``(batch, tokens, channels)``."""

    op: ClassVar[str] = "rms_norm"
    regimes: ClassVar[tuple[str, ...]] = (
        "normal", "tiny", "large", "zero_rows", "massive", "mean_shifted", "two_valued",
    )  # fmt: skip

    batch: int
    tokens: int
    channels: int
    eps: float = 1e-6
    zero_centered: bool = False

    def check(self) -> None:
        """Refuses empty shapes and an eps that is not positive."""
        for field in ("batch", "tokens", "channels"):
            self.at_least(field, 1)
        self.positive("eps")


def draw(largest: int) -> st.SearchStrategy[dict[str, Any]]:
    """Returns a strategy of shapes and options."""
    return st.fixed_dictionaries({
        "batch": st.integers(1, 3),
        "tokens": lengths(largest),
        "channels": lengths(2 * largest),
        "eps": st.sampled_from([1e-6, 1e-5]),
        "zero_centered": st.booleans(),
    })  # fmt: skip


def make(case: RmsNormCase) -> Inputs:
    """Returns the inputs of a case."""
    values = Values(case)
    shape = (case.batch, case.tokens, case.channels)
    return Inputs(
        tensors={
            "x": values.store(values.kind("x", shape, case.regime)),
            "weight": values.store(values.normal("weight", (case.channels,), shift=0.0 if case.zero_centered else 1.0)),
        },
        options={"eps": case.eps, "zero_centered": case.zero_centered},
        cotangents=cotangents(case, OUTPUTS, {"out": shape}),
    )


OPERATION = Operation(
    case=RmsNormCase,
    strategy=draw,
    inputs=make,
    reference=reference.rms_norm,
    emulate=emulator.emulate,
    outputs=OUTPUTS,
    positional=("x", "weight"),
    axes={"x": ("batch", "token", "channel"), "weight": ("channel",)},
    call="rms_norm(x, weight, *, eps, zero_centered=False)",
)
