"""Cases and inputs of ``l2_norm``."""

from dataclasses import dataclass
from typing import Any, ClassVar

from hypothesis import strategies as st

import reference
from harness.emulators import l2_norm as emulator
from harness.operations.base import Inputs, Operation, Output
from harness.operations.case import Case
from harness.operations.values import Values, cotangents, lengths, widths

__all__ = ["OPERATION", "L2NormCase"]

AXES = ("batch", "token", "head", "channel")
OUTPUTS = (Output(name="out", axes=AXES),)


@dataclass(frozen=True, slots=True, kw_only=True)
class L2NormCase(Case):
    """``x`` is ``(batch, tokens, heads, width)``."""

    op: ClassVar[str] = "l2_norm"
    regimes: ClassVar[tuple[str, ...]] = (
        "normal", "tiny", "large", "zero_rows", "massive", "mean_shifted", "two_valued",
    )  # fmt: skip

    batch: int
    tokens: int
    heads: int
    width: int
    eps: float = 1e-6

    def check(self) -> None:
        """Refuses empty shapes and an eps that is not positive."""
        for field in ("batch", "tokens", "heads", "width"):
            self.at_least(field, 1)
        self.positive("eps")


def draw(largest: int) -> st.SearchStrategy[dict[str, Any]]:
    """Returns a strategy of shapes and options."""
    return st.fixed_dictionaries({
        "batch": st.integers(1, 2),
        "tokens": lengths(largest),
        "heads": st.integers(1, 5),
        "width": widths(128),
        "eps": st.sampled_from([1e-6, 1e-5]),
    })  # fmt: skip


def make(case: L2NormCase) -> Inputs:
    """Returns the inputs of a case."""
    values = Values(case)
    shape = (case.batch, case.tokens, case.heads, case.width)
    return Inputs(
        tensors={"x": values.store(values.kind("x", shape, case.regime))},
        options={"eps": case.eps},
        cotangents=cotangents(case, OUTPUTS, {"out": shape}),
    )


OPERATION = Operation(
    case=L2NormCase,
    strategy=draw,
    inputs=make,
    reference=reference.l2_norm,
    emulate=emulator.emulate,
    outputs=OUTPUTS,
    positional=("x",),
    axes={"x": AXES},
    call="l2_norm(x, *, eps=1e-6)",
)
