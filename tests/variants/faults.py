"""Plug-in of seeded faults: correct implementations with one thing wrong, and what the judge must say to each.

``EXPECTED`` maps the name of a candidate to the verdict that it must get within some drawn cases, ``REACH`` to the
fields that a case needs for the fault to be one: without sinks, a wrong sink is no fault.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from optimized.candidate import Candidate
from tests.variants import misbehaviour, wrong_formulas, wrong_results
from tests.variants.correct import SUFFIXES, correct

__all__ = ["CANDIDATES", "EXPECTED", "FAULTS", "REACH", "Fault"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault of one operation.

    Attributes:
        name: what is wrong.
        op: where.
        seed: makes the faulty callable of the correct one.
        expected: the verdict that it must get.
        storages: formats in which it is seeded.
        reach: fields of a case without which the faulty implementation is a correct one.
        supports: the candidate's own refusal, if it has one.
        differentiable: whether it has gradients.
    """

    name: str
    op: str
    seed: Callable[[Callable[..., Any]], Callable[..., Any]]
    expected: str = "FAIL_NUMERIC"
    storages: tuple[str, ...] = ("float32", "bfloat16")
    reach: Mapping[str, Any] = field(default_factory=dict)
    supports: Callable[..., str | None] | None = None
    differentiable: bool = True

    def candidates(self) -> Mapping[str, Candidate]:
        """Returns one candidate per format by name."""
        return {item.name: item for item in map(self._candidate, self.storages)}

    def _candidate(self, storage: str) -> Candidate:
        base = correct(self.op, storage)
        return Candidate(
            name=f"{self.op.replace('_', '-')}-{self.name}-{SUFFIXES[storage]}",
            op=self.op,
            load=lambda: self.seed(base.load()),
            recipe=base.recipe,
            supports=self.supports,
            differentiable=self.differentiable,
            devices=("cpu",),
        )


_HALF = ("bfloat16",)

FAULTS: tuple[Fault, ...] = (
    Fault(name="scale-1-percent", op="attention", seed=wrong_formulas.scaled_option("scale", 1.01)),
    Fault(name="window-off-by-one", op="attention", seed=wrong_formulas.window_off_by_one,
          reach={"window_left": 2}),
    Fault(name="heads-tiled", op="attention", seed=wrong_formulas.heads_tiled,
          reach={"key_heads": 2, "group": 2}),
    Fault(name="sink-scaled", op="attention", seed=wrong_formulas.sink_scaled, reach={"sinks": True}),
    Fault(name="lse-base-two", op="attention", seed=wrong_formulas.lse_base_two),
    Fault(name="lse-gradient-dropped", op="attention", seed=wrong_formulas.lse_gradient_dropped),
    Fault(name="query-gradient-unscaled", op="attention", seed=wrong_formulas.query_gradient_unscaled,
          reach={"scale": 0.25}),
    Fault(name="mask-ignored", op="attention", seed=wrong_formulas.mask_ignored, reach={"key_mask": True}),
    Fault(name="head-5-percent", op="attention", seed=wrong_results.head_5_percent),
    Fault(name="element-doubled", op="attention", seed=wrong_results.element_doubled),
    Fault(name="element-nan", op="attention", seed=wrong_results.element_nan, expected="FAIL_NONFINITE"),
    Fault(name="truncated", op="attention", seed=wrong_results.truncated, storages=_HALF),
    Fault(name="gradients-zero", op="attention", seed=wrong_results.gradients_zero),
    Fault(name="input-written", op="attention", seed=misbehaviour.input_written, expected="FAIL_RELATION",
          storages=_HALF),
    Fault(name="scale-1-percent", op="gated_delta_rule", seed=wrong_formulas.scaled_option("scale", 1.01)),
    Fault(name="decay-1-percent", op="gated_delta_rule", seed=wrong_formulas.scaled_argument(3, 1.01),
          reach={"log_decay": True, "regime": "normal"}),
    Fault(name="beta-1-percent", op="gated_delta_rule", seed=wrong_formulas.scaled_argument(4, 1.01)),
    Fault(name="decay-after-write", op="gated_delta_rule", seed=wrong_formulas.decay_after_write,
          reach={"log_decay": True, "regime": "normal", "sequence_lengths": ()}),
    Fault(name="read-before-write", op="gated_delta_rule", seed=wrong_formulas.read_before_write),
    Fault(name="heads-tiled", op="gated_delta_rule", seed=wrong_formulas.rule_heads_tiled,
          reach={"key_heads": 2, "group": 2}),
    Fault(name="head-5-percent", op="gated_delta_rule", seed=wrong_results.head_5_percent),
    Fault(name="state-gradient-dropped", op="gated_delta_rule", seed=wrong_formulas.state_gradient_dropped),
    Fault(name="eps-outside-root", op="rms_norm", seed=wrong_formulas.eps_outside_root, reach={"regime": "tiny"}),
    Fault(name="weight-1-percent", op="rms_norm", seed=wrong_formulas.scaled_argument(1, 1.01)),
    Fault(name="truncated", op="rms_norm", seed=wrong_results.truncated, storages=_HALF),
    Fault(name="sigmoid-gate", op="gated_rms_norm", seed=wrong_formulas.gate_by_sigmoid),
    Fault(name="gate-before-norm", op="gated_rms_norm", seed=wrong_formulas.gate_before_norm),
    Fault(name="eps-outside-root", op="gated_rms_norm", seed=wrong_formulas.gated_eps_outside_root,
          reach={"regime": "tiny"}),
    Fault(name="weight-1-percent", op="gated_rms_norm", seed=wrong_formulas.scaled_argument(2, 1.01)),
    Fault(name="tail-cancelled", op="silu_mul", seed=wrong_formulas.silu_by_tanh, reach={"regime": "large"}),
    Fault(name="sine-sign", op="rope", seed=wrong_formulas.scaled_argument(2, -1.0)),
    Fault(name="tap-order", op="short_conv", seed=wrong_formulas.taps_flipped, reach={"taps": 4}),
    Fault(name="out-of-bounds", op="rms_norm", seed=misbehaviour.out_of_bounds, expected="FAIL_RELATION"),
    Fault(name="wrong-shape", op="rms_norm", seed=misbehaviour.wrong_shape, expected="FAIL_SHAPE",
          differentiable=False),
    Fault(name="wrong-dtype", op="rms_norm", seed=misbehaviour.wrong_dtype, expected="FAIL_DTYPE"),
    Fault(name="raises", op="rms_norm", seed=misbehaviour.raises, expected="ERROR", storages=_HALF),
    Fault(name="crashes", op="rms_norm", seed=misbehaviour.crashes, expected="ERROR", storages=_HALF),
    Fault(name="hangs", op="rms_norm", seed=misbehaviour.hangs, expected="TIMEOUT", storages=_HALF),
    Fault(name="refuses", op="rms_norm", seed=misbehaviour.raises, expected="UNSUPPORTED", storages=_HALF,
          supports=misbehaviour.refuses),
)  # fmt: skip

EXPECTED: Mapping[str, str] = {name: fault.expected for fault in FAULTS for name in fault.candidates()}
"""The verdict that each candidate must get."""

REACH: Mapping[str, Mapping[str, Any]] = {name: fault.reach for fault in FAULTS for name in fault.candidates()}
"""The fields that a case must have for each candidate to be faulty."""

CANDIDATES: tuple[Candidate, ...] = tuple(item for fault in FAULTS for item in fault.candidates().values())
"""One candidate per fault and storage format."""
