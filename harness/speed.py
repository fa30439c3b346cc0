"""Speed of candidates that passed, each beside the float64 reference in the same process: the honest slow baseline."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from harness.execute import Worker
from harness.operations.case import Case
from harness.records import Comparison, Record, Timing, Verdict
from harness.timing import BASELINE, compare, interval
from harness.verify import Settings, verify
from optimized.candidate import Candidate

__all__ = ["Speed", "measure_speed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How speed is measured.

    Attributes:
        repeats: paired repetitions.
        baseline: name of the candidate to compare with; the float64 reference by default.
    """

    repeats: int = 21
    baseline: str = BASELINE


def measure_speed(
    case: Case, candidates: Sequence[Candidate], worker: Worker, settings: Settings, speed: Speed
) -> list[Record]:  # fmt: skip
    """Returns verified records, with times where the verdict is PASS and a time means something.

    Kernels that run in Triton's interpreter get no time: it would be the interpreter's.
    """
    records = verify(case, candidates, worker, dataclasses.replace(settings, relations="none"))
    return [
        _timed(record, case, candidate, worker, settings, speed) if record.verdict is Verdict.PASS else record
        for record, candidate in zip(records, candidates, strict=True)
    ]


def _timed(
    record: Record, case: Case, candidate: Candidate, worker: Worker, settings: Settings, speed: Speed
) -> Record:  # fmt: skip
    timings = []
    for phase in ("forward", "forward+backward") if candidate.differentiable else ("forward",):
        answer = worker.ask({
            "kind": "time", "case": case.to_data(), "candidates": [candidate.name, speed.baseline], "phase": phase,
            "repeats": speed.repeats, "plugin": settings.plugin,
        })  # fmt: skip
        if answer.status != "ok":
            failed = Verdict.TIMEOUT if answer.status == "timeout" else Verdict.ERROR
            reason = f"while it was timed: {answer.header.get('sentence') or answer.status}"
            return dataclasses.replace(record, verdict=failed, reason=reason)
        if answer.header["interpreted"]:
            return record
        ours, theirs = answer.header["seconds"]
        ratio, low, high, verdict = compare(ours, theirs)
        middle, fastest, slowest = interval(ours)
        timings.append(
            Timing(
                phase=phase, median_us=middle * 1e6, low_us=fastest * 1e6, high_us=slowest * 1e6,
                repeats=speed.repeats, threads=settings.threads,
                comparison=Comparison(baseline=speed.baseline, ratio=ratio, low=low, high=high, verdict=verdict),
            )
        )  # fmt: skip
    fresh = case.replaced(seed=case.seed + 1)
    again = verify(fresh, [candidate], worker, dataclasses.replace(settings, relations="none"))[0]
    if again.verdict.is_failure:
        # A kernel that is right once and wrong after many calls has no speed either.
        return dataclasses.replace(again, reason=f"after it was timed: {again.reason}")
    return dataclasses.replace(record, timings=timings)
