"""Cases and inputs of ``mamba_decay``."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from hypothesis import strategies as st

import reference
from harness.emulators import mamba_decay as emulator
from harness.operations.base import Inputs, Operation, Output
from harness.operations.case import Case
from harness.operations.values import Values, cotangents, lengths

__all__ = ["OPERATION", "MambaDecayCase"]

AXES = ("batch", "token", "head")
OUTPUTS = (Output(name="out", axes=AXES, wide=True),)


@dataclass(frozen=True, slots=True, kw_only=True)
class MambaDecayCase(Case):
    """``x`` is ``(batch, tokens, heads)``; regimes are ranges of the softplus argument."""

    op: ClassVar[str] = "mamba_decay"
    regimes: ClassVar[tuple[str, ...]] = ("normal", "slow", "strong", "wide", "zero_rows")

    batch: int
    tokens: int
    heads: int

    def check(self) -> None:
        """Refuses empty shapes."""
        for field in ("batch", "tokens", "heads"):
            self.at_least(field, 1)


def draw(largest: int) -> st.SearchStrategy[dict[str, Any]]:
    """Returns a strategy of shapes."""
    return st.fixed_dictionaries({
        "batch": st.integers(1, 3), "tokens": lengths(2 * largest), "heads": st.integers(1, 17),
    })  # fmt: skip


def make(case: MambaDecayCase) -> Inputs:
    """Returns the inputs of a case."""
    values = Values(case)
    shape = (case.batch, case.tokens, case.heads)
    x = values.kind("x", shape, case.regime)
    match case.regime:
        case "slow":
            x = x - 30  # softplus is e^x here: 1 + e^x loses it
        case "strong":
            x = x * 5 + 30
        case "wide":
            x = values.uniform("x", shape, -45, 45)
    return Inputs(
        tensors={
            "x": values.store(x),
            "a_log": values.store(torch.log(values.uniform("a_log", (case.heads,), 0.05, 16))),
            "dt_bias": values.store(values.normal("dt_bias", (case.heads,), shift=-2)),
        },
        options={},
        cotangents=cotangents(case, OUTPUTS, {"out": shape}),
    )


OPERATION = Operation(
    case=MambaDecayCase,
    strategy=draw,
    inputs=make,
    reference=reference.mamba_decay,
    emulate=emulator.emulate,
    outputs=OUTPUTS,
    positional=("x", "a_log", "dt_bias"),
    axes={"x": AXES, "a_log": ("head",), "dt_bias": ("head",)},
    call="mamba_decay(x, a_log, dt_bias)",
)
