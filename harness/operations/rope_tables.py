"""Cases and inputs of ``rope_tables``; the positions are integers, so that there is no gradient."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from hypothesis import strategies as st

import reference
from harness.emulators import rope_tables as emulator
from harness.operations.base import Inputs, Operation, Output
from harness.operations.case import Case
from harness.operations.values import Values, cotangents, lengths

__all__ = ["OPERATION", "RopeTablesCase"]

AXES = ("batch", "token", "channel")
OUTPUTS = (Output(name="cos", axes=AXES, wide=True), Output(name="sin", axes=AXES, wide=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeTablesCase(Case):
    """Positions are ``(batch, tokens)``; regimes are their ranges."""

    op: ClassVar[str] = "rope_tables"
    regimes: ClassVar[tuple[str, ...]] = ("normal", "zero", "far", "power_of_two")

    batch: int
    tokens: int
    rope_dim: int
    base: float = 10000.0
    style: str = "half"
    scaling: str = "none"
    factor: float = 4.0

    def check(self) -> None:
        """Refuses empty shapes, an odd width, an unknown style or scaling."""
        for field in ("batch", "tokens"):
            self.at_least(field, 1)
        self.even("rope_dim")
        self.one_of("style", ("half", "interleaved"))
        self.one_of("scaling", ("none", "linear", "ntk", "yarn"))
        if self.scaling == "ntk":
            self.at_least("rope_dim", 4)  # its exponent is R / (R - 2)
        self.positive("base")
        self.positive("factor")


def draw(largest: int) -> st.SearchStrategy[dict[str, Any]]:
    """Returns a strategy of shapes and options."""
    return st.fixed_dictionaries({
        "batch": st.integers(1, 2),
        "tokens": lengths(largest),
        "rope_dim": st.sampled_from([4, 6, 8, 32, 64, 72, 128]),
        "base": st.sampled_from([10000.0, 500000.0, 1000000.0]),
        "style": st.sampled_from(["half", "interleaved"]),
        "scaling": st.sampled_from(["none", "linear", "ntk", "yarn"]),
        "factor": st.sampled_from([2.0, 4.0, 8.0]),
    })  # fmt: skip


def make(case: RopeTablesCase) -> Inputs:
    """Returns the inputs of a case."""
    values = Values(case)
    shape = (case.batch, case.tokens)
    match case.regime:
        case "zero":
            positions = torch.zeros(shape, dtype=torch.int64)
        case "far":
            positions = values.integers("positions", shape, 2**17, 2**20)
        case "power_of_two":
            positions = 2 ** values.integers("positions", shape, 0, 20)
        case _:
            positions = torch.arange(case.tokens) + values.integers("offset", (case.batch, 1), 0, 4096)
    scaling = None if case.scaling == "none" else {"type": case.scaling, "factor": case.factor}
    if scaling is not None and case.scaling == "yarn":
        scaling |= {"original_max_position": 4096, "beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": None}
    table = (case.batch, case.tokens, case.rope_dim)
    return Inputs(
        tensors={"positions": positions},
        options={"rope_dim": case.rope_dim, "base": case.base, "style": case.style, "scaling": scaling},
        cotangents=cotangents(case, OUTPUTS, {"cos": table, "sin": table}),
    )


OPERATION = Operation(
    case=RopeTablesCase,
    strategy=draw,
    inputs=make,
    reference=reference.rope_tables,
    emulate=emulator.emulate,
    outputs=OUTPUTS,
    positional=("positions",),
    axes={"positions": ("batch", "token")},
    call="rope_tables(positions, *, rope_dim, base, style, scaling=None)",
)
