"""Speed of candidates that passed, each beside a baseline in the same process.

No speed without a PASS: a candidate is judged before it is timed; what it computed while it was timed is judged by the
same budget; and it is judged again afterwards, on fresh inputs.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.bench.calls import PHASES
from harness.execute import Answer, Worker
from harness.judge import judge
from harness.operations.case import Case
from harness.ops import operation
from harness.records import Comparison, Record, Timing, Verdict
from harness.strategies import draw_cases
from harness.timing import BASELINE, compare, interval, noise_of
from harness.verify import MORE, Settings, Shared, overall, settled, verify
from optimized.candidate import Candidate

__all__ = ["SLACK", "Speed", "compiled", "measure_speed"]

SLACK = 1.05
"""A time below its floor by more than this is no speed but an error of the benchmark; ceilings vary by some percent."""


_PROBES = 3
"""Small cases, the first of which that a candidate takes shows what runs its kernels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How speed is measured.

    Attributes:
        repeats: rounds, each of two turns of every arm.
        most: rounds at most, where the noise is not far below the smallest effect yet; None means ``repeats``.
        baseline: name of the candidate to compare with; the float64 reference by default.
        phases: what is timed of a call; of a candidate without gradients, the forward alone.
    """

    repeats: int = 21
    most: int | None = None
    baseline: str = BASELINE
    phases: Sequence[str] = PHASES


def measure_speed(
    case: Case, candidates: Sequence[Candidate], worker: Worker, settings: Settings, speed: Speed
) -> list[Record]:  # fmt: skip
    """Returns verified records, with times where the verdict is PASS and a time means something.

    Kernels that run in Triton's interpreter get no time: it would be the interpreter's. Nor does anyone where the
    baseline is a candidate that did not pass.
    """
    settings = dataclasses.replace(settings, relations="none")
    shared = Shared(case)
    records = [settled(shared, candidate, worker, settings) for candidate in candidates]
    verdicts = {record.candidate: record.verdict for record in records}
    if verdicts.get(speed.baseline, Verdict.PASS) is not Verdict.PASS:
        return records
    return [
        record
        if record.verdict is not Verdict.PASS or candidate.name == speed.baseline
        else _timed(record, shared, candidate, worker, settings, speed)
        for record, candidate in zip(records, candidates, strict=True)
    ]


def compiled(case: Case, candidates: Sequence[Candidate], worker: Worker, settings: Settings) -> list[Candidate]:
    """Returns the candidates without those whose kernels Triton's interpreter runs here, which get no time.

    A small case of the operation shows it. To judge them on the timed one as well would be most of the work.
    """
    small = draw_cases(operation(case.op), _PROBES, seed_value=0, dtypes=[case.dtype], largest=8)
    return [candidate for candidate in candidates if not _interpreted(small, candidate, worker, settings)]


def _interpreted(small: Sequence[Case], candidate: Candidate, worker: Worker, settings: Settings) -> bool:
    """Returns whether a candidate is interpreted on the first case that it takes; False where it takes none."""
    for case in small:
        request = {"kind": "run", "case": case.to_data(), "candidate": candidate.name, "plugin": settings.plugin}
        answer = worker.ask(request)
        if answer.status == "ok":
            return bool(answer.header["interpreted"])
    return False


def _timed(
    record: Record, shared: Shared, candidate: Candidate, worker: Worker, settings: Settings, speed: Speed
) -> Record:  # fmt: skip
    timings = []
    for phase in speed.phases if candidate.differentiable and _has_gradients(shared) else PHASES[:1]:
        answer = worker.ask({
            "kind": "time", "case": shared.case.to_data(), "candidates": [candidate.name, speed.baseline],
            "phase": phase, "repeats": speed.repeats, "most": speed.most or speed.repeats, "plugin": settings.plugin,
        })  # fmt: skip
        if answer.status != "ok":
            failed = Verdict.TIMEOUT if answer.status == "timeout" else Verdict.ERROR
            reason = f"while it was timed: {answer.header.get('sentence') or answer.status}"
            return dataclasses.replace(record, verdict=failed, reason=reason)
        if answer.header["interpreted"]:
            return record
        verdict, reason = _judged(shared, candidate, answer.tensors)
        if verdict not in {Verdict.PASS, Verdict.NO_POWER}:
            return dataclasses.replace(record, verdict=verdict, reason=f"while it was timed: {reason}")
        timing = _timing(phase, answer, settings, speed)
        if timing.floor_us is not None and timing.floor_us > SLACK * timing.median_us:
            reason = f"{phase}: got {timing.median_us:.3g} us, expected at least its floor of {timing.floor_us:.3g} us"
            return dataclasses.replace(record, verdict=Verdict.ERROR, reason=f"while it was timed: {reason}")
        timings.append(timing)
    fresh = shared.case.replaced(seed=shared.case.seed + 1)
    again = verify(fresh, [candidate], worker, settings)[0]
    if again.verdict.is_failure:
        # A kernel that is right once and wrong after many calls has no speed either.
        return dataclasses.replace(again, reason=f"after it was timed: {again.reason}")
    return dataclasses.replace(record, timings=timings)


def _has_gradients(shared: Shared) -> bool:
    return bool(shared.row.differentiable(shared.inputs.tensors))


def _timing(phase: str, answer: Answer, settings: Settings, speed: Speed) -> Timing:
    ours, theirs, again = answer.header["seconds"]
    pair = compare(ours, theirs, noise=noise_of(theirs, again))
    middle, fastest, slowest = interval(ours)
    return Timing(
        phase=phase, median_us=middle * 1e6, low_us=fastest * 1e6, high_us=slowest * 1e6, repeats=len(ours),
        threads=settings.threads, how=answer.header["how"], floor_us=answer.header["floor_us"],
        comparison=Comparison(baseline=speed.baseline, **dataclasses.asdict(pair)),
    )  # fmt: skip


def _judged(shared: Shared, candidate: Candidate, timed: Mapping[str, Tensor]) -> tuple[Verdict, str]:
    """Returns the verdict on what a timed call computed: that of the judged call where both are equal to the bit."""
    before = shared.answers[candidate.name].tensors
    other = {name: item for name, item in timed.items() if name in before and not _equal(item, before[name])}
    if not other:
        return Verdict.PASS, ""
    provided = tuple(output.name for output in shared.row.outputs if output.name in before)
    with_gradients = candidate.differentiable and _has_gradients(shared)
    expected = shared.expected(provided, with_gradients=with_gradients)
    found = Verdict.PASS, ""
    for factor in (1, MORE):
        budgets = shared.budgets(provided, candidate.recipe, with_gradients=with_gradients, factor=factor)
        found = overall([
            judge(
                shared.row, name, item, budgets[name],
                {direction: values[name] for direction, values in expected.tangents.items()}, shared.case.dtype,
            )
            for name, item in other.items()
        ])  # fmt: skip
        if found[0] is Verdict.PASS:
            break
    return found


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)
