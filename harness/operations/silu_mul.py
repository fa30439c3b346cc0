"""Cases and inputs of ``silu_mul``."""

from dataclasses import dataclass
from typing import Any, ClassVar

from hypothesis import strategies as st

import reference
from harness.emulators import silu_mul as emulator
from harness.operations.base import Inputs, Operation, Output
from harness.operations.case import Case
from harness.operations.values import Values, cotangents, lengths

__all__ = ["OPERATION", "SiluMulCase"]

AXES = ("batch", "token", "channel")
OUTPUTS = (Output(name="out", axes=AXES),)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiluMulCase(Case):
    """``gate`` and ``x`` are ``(batch, tokens, channels)``."""

    op: ClassVar[str] = "silu_mul"
    regimes: ClassVar[tuple[str, ...]] = ("normal", "tiny", "large", "zero_rows", "massive", "mean_shifted")

    batch: int
    tokens: int
    channels: int

    def check(self) -> None:
        """Refuses empty shapes."""
        for field in ("batch", "tokens", "channels"):
            self.at_least(field, 1)


def draw(largest: int) -> st.SearchStrategy[dict[str, Any]]:
    """Returns a strategy of shapes."""
    return st.fixed_dictionaries({
        "batch": st.integers(1, 3), "tokens": lengths(largest), "channels": lengths(2 * largest),
    })  # fmt: skip


def make(case: SiluMulCase) -> Inputs:
    """Returns the inputs of a case."""
    values = Values(case)
    shape = (case.batch, case.tokens, case.channels)
    return Inputs(
        tensors={
            "gate": values.store(values.kind("gate", shape, case.regime)),
            "x": values.store(values.normal("x", shape)),
        },
        options={},
        cotangents=cotangents(case, OUTPUTS, {"out": shape}),
    )


OPERATION = Operation(
    case=SiluMulCase,
    strategy=draw,
    inputs=make,
    reference=reference.silu_mul,
    emulate=emulator.emulate,
    outputs=OUTPUTS,
    positional=("gate", "x"),
    axes={"gate": AXES, "x": AXES},
    call="silu_mul(gate, x)",
)
