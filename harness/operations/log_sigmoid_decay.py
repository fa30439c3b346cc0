"""Cases and inputs of ``log_sigmoid_decay``."""

from dataclasses import dataclass
from typing import Any, ClassVar

from hypothesis import strategies as st

import reference
from harness.emulators import log_sigmoid_decay as emulator
from harness.operations.base import Inputs, Operation, Output
from harness.operations.case import Case
from harness.operations.values import Values, cotangents, lengths

__all__ = ["OPERATION", "LogSigmoidDecayCase"]

AXES = ("batch", "token", "head")
OUTPUTS = (Output(name="out", axes=AXES, wide=True),)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSigmoidDecayCase(Case):
    """``x`` is ``(batch, tokens, heads)``; regimes are ranges of ``x``."""

    op: ClassVar[str] = "log_sigmoid_decay"
    regimes: ClassVar[tuple[str, ...]] = ("normal", "slow", "strong", "wide", "zero_rows")

    batch: int
    tokens: int
    heads: int
    normalizer: float = 16.0

    def check(self) -> None:
        """Refuses empty shapes and a normalizer that is not positive."""
        for field in ("batch", "tokens", "heads"):
            self.at_least(field, 1)
        self.positive("normalizer")


def draw(largest: int) -> st.SearchStrategy[dict[str, Any]]:
    """Returns a strategy of shapes and options."""
    return st.fixed_dictionaries({
        "batch": st.integers(1, 3),
        "tokens": lengths(2 * largest),
        "heads": st.integers(1, 17),
        "normalizer": st.sampled_from([1.0, 3.0, 16.0]),
    })  # fmt: skip


def make(case: LogSigmoidDecayCase) -> Inputs:
    """Returns the inputs of a case."""
    values = Values(case)
    shape = (case.batch, case.tokens, case.heads)
    x = values.kind("x", shape, case.regime)
    match case.regime:
        case "slow":
            x = x + 30  # log(sigmoid(x)) is -e^-x here: 1 + e^-x loses it
        case "strong":
            x = x * 5 - 30
        case "wide":
            x = values.uniform("x", shape, -45, 45)
    return Inputs(
        tensors={"x": values.store(x)},
        options={"normalizer": case.normalizer},
        cotangents=cotangents(case, OUTPUTS, {"out": shape}),
    )


OPERATION = Operation(
    case=LogSigmoidDecayCase,
    strategy=draw,
    inputs=make,
    reference=reference.log_sigmoid_decay,
    emulate=emulator.emulate,
    outputs=OUTPUTS,
    positional=("x",),
    axes={"x": AXES},
    call="log_sigmoid_decay(x, *, normalizer)",
)
