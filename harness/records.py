"""What a judged case leaves behind: one Record, one line of JSON. Standard library only, so that readers need no torch.

A Record cannot lie: the verdict is one of a closed list, a time exists only beside a PASS, UNSUPPORTED carries the
candidate's sentence, and every record holds its case, seed, recipe and environment. ``harness.codec`` turns it into
JSON and back.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

__all__ = [
    "SCHEMA_VERSION",
    "Aggregate",
    "Certificate",
    "Comparison",
    "Judgement",
    "Phases",
    "Record",
    "Relation",
    "Timing",
    "Verdict",
    "worst_verdict",
]

SCHEMA_VERSION = 1


class Verdict(StrEnum):
    """The outcome of one judgement, relation or record; the members stand in the order of their gravity."""

    PASS = "PASS"
    NO_POWER = "NO_POWER"
    UNSUPPORTED = "UNSUPPORTED"
    AMBIGUOUS = "AMBIGUOUS"
    FAIL_RELATION = "FAIL_RELATION"
    FAIL_NUMERIC = "FAIL_NUMERIC"
    FAIL_NONFINITE = "FAIL_NONFINITE"
    FAIL_DTYPE = "FAIL_DTYPE"
    FAIL_SHAPE = "FAIL_SHAPE"
    TIMEOUT = "TIMEOUT"
    ERROR = "ERROR"

    @property
    def is_failure(self) -> bool:
        """Whether the verdict makes a command exit with 1."""
        return self.value.startswith("FAIL") or self in {Verdict.ERROR, Verdict.TIMEOUT}


_GRAVITY = {verdict: rank for rank, verdict in enumerate(Verdict)}


def worst_verdict(verdicts: Sequence[Verdict]) -> Verdict:
    """Returns the gravest of the verdicts; PASS when there are none."""
    return max(verdicts, key=_GRAVITY.__getitem__, default=Verdict.PASS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """One test over all elements of a tensor: what was found, what a legal execution may show.

    Attributes:
        name: ``"gain"``; ``"bias"``; ``"along:NAME"`` (error along the derivative by an argument); ``"slice:PART"``
            (the gain of the part of an axis that is furthest from its limit); ``"spread"`` (mean square of
            ``error / sigma`` above that of legal executions); ``"lean"`` (mean sign of the errors, away from zero
            positive).
        value: the estimate; for gains, slices and ``along`` relative (0.01 = one percent), for the bias absolute.
        limit: largest absolute value that passes; of a spread only a positive value is held against it.
        error: standard error of the estimate under a legal execution.
        nearest: what a round-to-nearest execution of the recipe shows, with its sign.
        directed: what an execution shows whose special functions all err upwards, with its sign.
        weight: one over the squared standard error that independent elements would give; 0 if it is not pooled.
    """

    name: str
    value: float
    limit: float
    error: float
    nearest: float = 0.0
    directed: float = 0.0
    weight: float = 0.0

    @property
    def excess(self) -> float:
        """The value in units of its limit: above 1 it does not pass; infinite where it is no number."""
        if self.value == 0 or (self.name == "spread" and self.value < 0):
            return 0.0
        ratio = abs(self.value) / self.limit if self.limit else math.inf
        return ratio if math.isfinite(ratio) else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One output or gradient against its budget.

    Attributes:
        output: name of the output (``"out"``) or of the gradient (``"grad:query"``).
        verdict: outcome of the element, aggregate and exact checks together.
        reason: one sentence when the verdict is not PASS, else empty.
        max_ratio: largest ``|error| / tolerance`` over the elements; at most 1 passes.
        max_error: largest absolute error.
        worst_index: index of the element with the largest ratio, by named axes, e.g. ``{"batch": 0, "token": 3}``.
        actual: the candidate's value there.
        expected: the reference's value there.
        bound: the tolerance there.
        rms_ratio: root mean square of ``error / sigma``; about 1 for a kernel that uses its whole recipe.
        elements: number of elements compared.
        aggregates: the tests over all elements.
        smallest_gain: smallest relative gain error that would have failed.
        smallest_element: smallest error of one typical element, relative to the rms of the expected tensor.
        nearest_ratio: largest ratio of a round-to-nearest execution of the same recipe in the same run.
    """

    output: str
    verdict: Verdict
    reason: str = ""
    max_ratio: float | None = None
    max_error: float | None = None
    worst_index: Mapping[str, int] = field(default_factory=dict)
    actual: float | None = None
    expected: float | None = None
    bound: float | None = None
    rms_ratio: float | None = None
    elements: int = 0
    aggregates: Sequence[Aggregate] = ()
    smallest_gain: float | None = None
    smallest_element: float | None = None
    nearest_ratio: float | None = None


EVERY_CALL = ("inputs_unchanged", "writes_in_bounds")
"""Relations that every call is checked by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """One exact check: a property that needs no tolerance, with its negative control."""

    name: str
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Speed beside a baseline, measured in pairs: ratio of times (candidate / baseline) with its interval.

    ``verdict`` is one of SAME, FASTER, SLOWER, AMBIGUOUS; ``noise`` is how far the baseline beside itself may be from 1
    in the same rounds, as a logarithm (None in records of before it was measured).
    """

    baseline: str
    ratio: float
    low: float
    high: float
    verdict: str
    noise: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Time of one call of a candidate that passed: medians and order-statistic intervals, in microseconds.

    ``repeats`` are rounds, ``how`` is ``host``, ``graph`` or ``stream``; ``floor_us`` is the shortest time by the
    ceilings that were measured in the same process.
    """

    phase: str
    median_us: float
    low_us: float
    high_us: float
    repeats: int
    threads: int
    comparison: Comparison | None = None
    how: str = "host"
    floor_us: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """Where the time of a judged case went, in seconds."""

    inputs_s: float = 0.0
    reference_s: float = 0.0
    budget_s: float = 0.0
    candidate_s: float = 0.0
    worker_s: float = 0.0
    judge_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """How far the float64 reference is from its enclosure by ball arithmetic.

    ``distance`` is the largest ``|reference - ball| / (eps * condition)`` over the elements of all cases.
    """

    op: str
    output: str
    cases: int
    elements: int
    distance: float
    limit: float
    radius: float
    bits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One case on one candidate.

    Attributes:
        case: the case as JSON data (``op``, shape, options, dtype, layout, regime, seed, ``schema``).
        case_id: hash of the case's canonical JSON.
        candidate: name of the candidate.
        recipe: the candidate's recipe as JSON data.
        verdict: the gravest of the judgements and relations, or of what kept them from being made.
        reason: one sentence when the verdict is not PASS, else empty.
        judgements: one per output and gradient.
        unchecked: outputs and gradients that the candidate does not provide.
        relations: the exact checks.
        timings: measured speeds; only beside a PASS.
        phases: where the time of this record went.
        retests: seeds and largest ratios of the fresh cases that re-tested an AMBIGUOUS verdict.
        environment: device, versions, commit, threads (see ``harness.environment``).
        seed: seed of the inputs, repeated from the case.
        started: start in UTC, ISO 8601.
        traceback: for ERROR, the worker's traceback.
        schema: version of this format.
    """

    case: Mapping[str, Any]
    case_id: str
    candidate: str
    recipe: Mapping[str, Any]
    verdict: Verdict
    environment: Mapping[str, Any]
    seed: int
    started: str
    reason: str = ""
    judgements: Sequence[Judgement] = ()
    unchecked: Sequence[str] = ()
    relations: Sequence[Relation] = ()
    timings: Sequence[Timing] = ()
    phases: Phases = field(default_factory=Phases)
    retests: Sequence[Mapping[str, Any]] = ()
    traceback: str = ""
    schema: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        """Refuses a record that would contradict itself.

        Raises:
            ValueError: a timing without PASS, or a verdict other than PASS without a reason, or a PASS that judged
                nothing.
        """
        if self.timings and self.verdict is not Verdict.PASS:
            raise ValueError(f"Record.timings: got a time beside {self.verdict}, expected times only beside PASS")
        if self.verdict is not Verdict.PASS and not self.reason:
            raise ValueError(f"Record.reason: got nothing beside {self.verdict}, expected a sentence")
        if self.verdict is Verdict.PASS and not self.judgements:
            raise ValueError("Record.judgements: got none beside PASS, expected at least one")

    @property
    def op(self) -> str:
        """Name of the operation."""
        return str(self.case["op"])

    @property
    def broken(self) -> tuple[str, ...]:
        """Names of the failed relations that need calls of their own: a replay has to ask for them."""
        return tuple(each.name for each in self.relations if each.verdict.is_failure and each.name not in EVERY_CALL)
