"""Tests that pool a whole campaign: what one case cannot resolve, hundreds can. Standard library only.

Per candidate, dtype, tensor and statistic (gain, along an argument, spread, lean) the estimates of all cases that
passed are averaged. A case weighs as much as its variance is small; that variance is the largest of what its samples
showed, what its round-to-nearest execution showed, and what independent elements would give. The last keeps an estimate
from few samples that happens to be tiny from deciding alone. What is granted in full, as in a single case, is the
weighted mean of what round-to-nearest executions and executions with one-sided special functions show: coherent errors
that belong to the recipe add up in the pool as they do in a kernel.

The number of tests follows from what was run, not from what came out, and sets their limit (``harness.alarms``).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.alarms import pooled_limit
from harness.records import Aggregate, Record, Verdict

__all__ = ["Pooled", "failing", "pooled"]

_POOLED = ("gain", "along:", "spread", "lean")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooled:
    """One statistic of one tensor of one candidate over a campaign.

    Attributes:
        op: the operation.
        candidate: the candidate.
        dtype: storage dtype of the cases.
        output: output or gradient.
        test: name of the statistic, as in ``Aggregate``.
        cases: how many were pooled.
        value: the pooled estimate.
        limit: largest legal value; of a spread only a positive value is held against it.
        error: its standard error under legal executions.
    """

    op: str
    candidate: str
    dtype: str
    output: str
    test: str
    cases: int
    value: float
    limit: float
    error: float

    @property
    def verdict(self) -> Verdict:
        """PASS, or FAIL_NUMERIC beyond the limit; NO_POWER where nothing is known of the error."""
        if not self.limit > 0:
            return Verdict.NO_POWER
        return Verdict.FAIL_NUMERIC if self.excess > 1 else Verdict.PASS

    @property
    def excess(self) -> float:
        """The value in units of its limit."""
        return Aggregate(name=self.test, value=self.value, limit=self.limit, error=self.error).excess

    @property
    def sentence(self) -> str:
        """What is said of it, one line."""
        percent = self.test == "gain" or self.test.startswith("along:")
        scale, unit = (100.0, " %") if percent else (1.0, "")
        return (
            f"{self.candidate} {self.output}: {self.test} over {self.cases} cases is "
            f"{scale * self.value:+.3g}{unit}, largest legal {scale * self.limit:.3g}{unit}"
        )


def pooled(records: Sequence[Record]) -> list[Pooled]:
    """Returns the pooled tests of a campaign's records, one per candidate, dtype, tensor and statistic."""
    groups: dict[tuple[str, str, str, str, str], list[Aggregate]] = {}
    for record in records:
        subject = (record.op, record.candidate, str(record.case.get("dtype")))
        for item in record.judgements:
            for test in item.aggregates:
                if test.name.startswith(_POOLED):
                    kept = groups.setdefault((*subject, item.output, test.name), [])
                    # What fails alone is told alone; what cannot decide alone decides nothing here either.
                    if item.verdict is Verdict.PASS and _counts(test):
                        kept.append(test)
    limit = pooled_limit(len(groups))
    return [_pooled(key, tests, limit) for key, tests in groups.items() if tests]


def _counts(test: Aggregate) -> bool:
    return test.weight > 0 and all(map(math.isfinite, (test.value, test.error, test.nearest, test.directed)))


def _pooled(key: tuple[str, str, str, str, str], tests: Sequence[Aggregate], limit: float) -> Pooled:
    op, candidate, dtype, output, name = key
    weights = [1 / max(test.error**2, test.nearest**2, 1 / test.weight) for test in tests]
    total = math.fsum(weights)

    def mean(values: Sequence[float]) -> float:
        return math.fsum(weight * value for weight, value in zip(weights, values, strict=True)) / total

    granted = max(abs(mean([test.nearest for test in tests])), abs(mean([test.directed for test in tests])))
    error = total**-0.5
    return Pooled(
        op=op, candidate=candidate, dtype=dtype, output=output, test=name, cases=len(tests),
        value=mean([test.value for test in tests]), limit=granted + limit * error, error=error,
    )  # fmt: skip


def failing(tests: Sequence[Pooled]) -> Mapping[str, list[Pooled]]:
    """Returns the pooled tests beyond their limit, by candidate."""
    result: dict[str, list[Pooled]] = {}
    for test in tests:
        if test.verdict.is_failure:
            result.setdefault(test.candidate, []).append(test)
    return result
