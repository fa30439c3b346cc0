"""Cases and inputs of ``gated_rms_norm``."""

from dataclasses import dataclass
from typing import Any, ClassVar

from hypothesis import strategies as st

import reference
from harness.emulators import gated_rms_norm as emulator
from harness.operations.base import Inputs, Operation, Output
from harness.operations.case import Case
from harness.operations.values import Values, cotangents, lengths

__all__ = ["OPERATION", "GatedRmsNormCase"]

AXES = ("batch", "token", "head", "channel")
OUTPUTS = (Output(name="out", axes=AXES),)

_GATE_REGIMES = {"gate_large": "large", "gate_mean_shifted": "mean_shifted"}
"""Regimes of the gate, beside which the rows are normal; in the others it is the gate that is normal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedRmsNormCase(Case):
    """``x`` and ``gate`` are ``(batch, tokens, heads, channels)``: a norm over the values of a head."""

    op: ClassVar[str] = "gated_rms_norm"
    regimes: ClassVar[tuple[str, ...]] = (
        "normal", "tiny", "large", "zero_rows", "massive", "mean_shifted", "two_valued", *_GATE_REGIMES,
    )  # fmt: skip

    batch: int
    tokens: int
    heads: int = 1
    channels: int
    eps: float = 1e-6
    zero_centered: bool = False

    def check(self) -> None:
        """Refuses empty shapes and an eps that is not positive."""
        for field in ("batch", "tokens", "heads", "channels"):
            self.at_least(field, 1)
        self.positive("eps")


def draw(largest: int) -> st.SearchStrategy[dict[str, Any]]:
    """Returns a strategy of shapes and options."""
    return st.fixed_dictionaries({
        "batch": st.integers(1, 2),
        "tokens": lengths(largest),
        "heads": st.sampled_from([1, 2, 3]),
        "channels": lengths(2 * largest),
        "eps": st.sampled_from([1e-6, 1e-5]),
        "zero_centered": st.booleans(),
    })  # fmt: skip


def make(case: GatedRmsNormCase) -> Inputs:
    """Returns the inputs of a case."""
    values = Values(case)
    shape = (case.batch, case.tokens, case.heads, case.channels)
    rows = "normal" if case.regime in _GATE_REGIMES else case.regime
    return Inputs(
        tensors={
            "x": values.store(values.kind("x", shape, rows)),
            "gate": values.store(values.kind("gate", shape, _GATE_REGIMES.get(case.regime, "normal"))),
            "weight": values.store(values.normal("weight", (case.channels,), shift=0.0 if case.zero_centered else 1.0)),
        },
        options={"eps": case.eps, "zero_centered": case.zero_centered},
        cotangents=cotangents(case, OUTPUTS, {"out": shape}),
    )


OPERATION = Operation(
    case=GatedRmsNormCase,
    strategy=draw,
    inputs=make,
    reference=reference.gated_rms_norm,
    emulate=emulator.emulate,
    outputs=OUTPUTS,
    positional=("x", "gate", "weight"),
    axes={"x": AXES, "gate": AXES, "weight": ("channel",)},
    call="gated_rms_norm(x, gate, weight, *, eps, zero_centered=False)",
)
