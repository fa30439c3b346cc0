"""Cases and inputs of the layer ``low_rank_projection``."""

from dataclasses import dataclass
from typing import Any, ClassVar

from hypothesis import strategies as st

import reference
from harness.emulators import low_rank_projection as emulator
from harness.operations.base import Inputs, Operation, Output
from harness.operations.case import Case
from harness.operations.values import LAYER_REGIMES, Values, cotangents, lengths, projection

__all__ = ["OPERATION", "LowRankProjectionCase"]

AXES = ("batch", "token", "channel")
OUTPUTS = (Output(name="out", axes=AXES),)


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRankProjectionCase(Case):
    """``hidden_states`` is ``(batch, tokens, in_features)``."""

    op: ClassVar[str] = "low_rank_projection"
    regimes: ClassVar[tuple[str, ...]] = LAYER_REGIMES

    batch: int
    tokens: int
    in_features: int
    bottleneck: int
    out_features: int
    norm_eps: float = 1e-6

    def check(self) -> None:
        """Refuses empty shapes and an eps that is not positive."""
        for field in ("batch", "tokens", "in_features", "bottleneck", "out_features"):
            self.at_least(field, 1)
        self.positive("norm_eps")


def draw(largest: int) -> st.SearchStrategy[dict[str, Any]]:
    """Returns a strategy of shapes and options."""
    return st.fixed_dictionaries({
        "batch": st.integers(1, 2),
        "tokens": lengths(largest),
        "in_features": st.sampled_from([16, 24, 64]),
        "bottleneck": st.sampled_from([4, 12, 33]),
        "out_features": st.sampled_from([16, 40, 64]),
        "norm_eps": st.sampled_from([1e-6, 1e-5]),
    })  # fmt: skip


def make(case: LowRankProjectionCase) -> Inputs:
    """Returns the inputs of a case; all parameters are random."""
    values = Values(case)
    shape = (case.batch, case.tokens)
    return Inputs(
        tensors={
            "hidden_states": values.store(values.kind("hidden_states", (*shape, case.in_features), case.regime)),
            "down_proj.weight": projection(values, "down_proj.weight", case.bottleneck, case.in_features),
            "norm.weight": values.store(values.normal("norm.weight", (case.bottleneck,), shift=1.0)),
            "up_proj.weight": projection(values, "up_proj.weight", case.out_features, case.bottleneck),
        },
        options={
            "in_features": case.in_features, "bottleneck": case.bottleneck, "out_features": case.out_features,
            "norm_eps": case.norm_eps,
        },
        cotangents=cotangents(case, OUTPUTS, {"out": (*shape, case.out_features)}),
    )  # fmt: skip


OPERATION = Operation(
    case=LowRankProjectionCase,
    strategy=draw,
    inputs=make,
    reference=reference.low_rank_projection,
    emulate=emulator.emulate,
    outputs=OUTPUTS,
    positional=("hidden_states",),
    is_layer=True,
    axes={"hidden_states": AXES},
    call="low_rank_projection(hidden_states, parameters, *, in_features, bottleneck, out_features, norm_eps)",
)
