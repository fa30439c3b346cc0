"""``harness.check``: the testbench as one call in a test suite of your own.

```python
import harness

def test_my_kernel() -> None:
    harness.check(MY_CANDIDATE, op="rms_norm", cases=200)
```
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from harness.candidates import find_candidates
from harness.cases import case_from_data, case_from_text
from harness.errors import UsageError, nearest
from harness.execute import Worker
from harness.explanation import explanation, reproduction
from harness.inprocess import Here
from harness.operations.case import Case
from harness.ops import operation
from harness.pool import failing, pooled
from harness.records import Record, Verdict
from harness.shrink import shrink
from harness.strategies import draw_cases
from harness.verify import Settings, verify
from optimized.candidate import Candidate

__all__ = ["CheckFailedError", "check", "failed_case"]


def check(
    candidate: Candidate | str,
    *,
    op: str | None = None,
    cases: int = 200,
    seed: int = 0,
    first: Sequence[str | Mapping[str, Any]] = (),
    regimes: Sequence[str] | None = None,
    largest: int = 100,
    plugin: str | None = None,
    device: str = "cpu",
    limit_s: float = 120.0,
    worker: Worker | None = None,
) -> list[Record]:
    """Judges a candidate on drawn cases, and raises at the first one that it fails, shrunk to a small one.

    A candidate that is given as an object runs in this process: a debugger stops in it, and a crash or a hang ends the
    test run. One that is given by its name, installed or of a plug-in file, runs in a worker process with a time limit.

    Args:
        candidate: who is judged, or its name.
        op: its operation, as a check that it is the one you mean; None takes the candidate's own.
        cases: how many are drawn; the same arguments draw the same cases.
        seed: of the draw.
        first: cases to judge before those, as JSON text or data, for instance one that failed once.
        regimes: only these value regimes.
        largest: largest number of tokens.
        plugin: ``FILE.py`` that holds a candidate given by its name.
        device: ``cpu`` or ``cuda``.
        limit_s: seconds that one call of a candidate given by its name may take.
        worker: runs a candidate given by its name; it stays open. None starts one.

    Returns:
        The records, all without a failure.

    Raises:
        CheckFailedError: an AssertionError: a case failed, or all of them together, or none could be judged. The
            message holds the case, what was wrong with it, and the line that runs it again.
        UsageError: an argument that makes no sense.
    """
    chosen = _chosen(candidate, plugin)
    if op is not None and operation(op).name != chosen.op:
        raise UsageError(f"op: got {op!r}, expected {chosen.op!r}, which {chosen.name} computes")
    if cases < 0 or not (cases or first):
        raise UsageError(f"cases: got {cases}, expected at least 1")
    drawn = _cases(chosen, cases=cases, seed=seed, first=first, regimes=regimes, largest=largest)
    settings = Settings(device=device, limit_s=limit_s, plugin=plugin)
    records: list[Record] = []
    with contextlib.ExitStack() as stack:
        running = worker or stack.enter_context(_worker(candidate, settings))
        for case in drawn:
            record = verify(case, [chosen], running, settings)[0]
            records.append(record)
            if record.verdict.is_failure:
                raise _failure(_smallest(record, case, chosen, running, settings), candidate, plugin)
    _require_together(records, chosen)
    return records


def failed_case(error: BaseException) -> Mapping[str, Any] | None:
    """Returns the case that a failure of ``check`` is about, to be judged first the next time; None without one."""
    return error.record.case if isinstance(error, CheckFailedError) and error.record is not None else None


class CheckFailedError(AssertionError):
    """A candidate failed; ``record`` is that of its smallest case, or None when only all cases together fail."""

    def __init__(self, message: str, record: Record | None = None) -> None:
        super().__init__(message)
        self.record = record


def _failure(record: Record, candidate: Candidate | str, plugin: str | None) -> CheckFailedError:
    case = case_from_data(record.case).to_line()
    again = reproduction(record, plugin=plugin)
    if isinstance(candidate, Candidate):
        again = f"harness.check(..., cases=0, first=['{case}'])"
    lines = [
        f"{record.candidate} fails {record.op}: {record.verdict.value}",
        f"  case: {case}",
        *explanation(record),
        *([record.traceback.rstrip()] if record.traceback else []),
        f"again: {again}",
    ]
    return CheckFailedError("\n".join(lines), record)


def _smallest(record: Record, case: Case, candidate: Candidate, worker: Worker, settings: Settings) -> Record:
    """Returns the record of a small case that fails alike; a hang costs its time limit, so its own case has to do."""
    if record.verdict is Verdict.TIMEOUT:
        return record
    found = shrink(case, lambda each: verify(each, [candidate], worker, settings)[0])
    return found if found.verdict.is_failure else record


def _require_together(records: Sequence[Record], candidate: Candidate) -> None:
    """Refuses what no single case shows, and a check that judged nothing.

    Raises:
        CheckFailedError: a test over all cases failed, or there was no case that could be judged.
    """
    tests = [test for tests in failing(pooled(records)).values() for test in tests]
    if tests:
        sentences = "\n".join(f"  {test.sentence}" for test in tests)
        raise CheckFailedError(f"{candidate.name} fails {candidate.op} over all cases together:\n{sentences}")
    if not any(record.verdict in {Verdict.PASS, Verdict.AMBIGUOUS} for record in records):
        reasons = "\n".join(dict.fromkeys(f"  {record.verdict.value}: {record.reason}" for record in records))
        raise CheckFailedError(f"{candidate.name} was judged on none of {len(records)} cases:\n{reasons}")


def _chosen(candidate: Candidate | str, plugin: str | None) -> Candidate:
    if isinstance(candidate, Candidate):
        if plugin is not None:
            raise UsageError("plugin: got it beside a candidate, expected it beside the name of one")
        operation(candidate.op)
        return candidate
    if not isinstance(candidate, str):
        raise UsageError(f"candidate: got {type(candidate).__name__}, expected a Candidate or the name of one")
    known = find_candidates(plugin).candidates
    if candidate not in known:
        raise UsageError(f"candidate: got {candidate!r}, expected one of {', '.join(known)}{nearest(candidate, known)}")
    return known[candidate]


def _cases(
    candidate: Candidate,
    *,
    cases: int,
    seed: int,
    first: Sequence[str | Mapping[str, Any]],
    regimes: Sequence[str] | None,
    largest: int,
) -> list[Case]:
    """Returns the cases to judge, those that were named before those that are drawn."""
    row = operation(candidate.op)
    for regime in regimes or ():
        if regime not in row.case.regimes:
            hint = nearest(regime, row.case.regimes)
            raise UsageError(f"regimes: got {regime!r}, expected some of {', '.join(row.case.regimes)}{hint}")
    named = [case_from_text(each) if isinstance(each, str) else case_from_data(each) for each in first]
    for case in named:
        if (case.op, case.dtype) != (candidate.op, candidate.recipe.storage):
            raise UsageError(
                f"first: got a case of {case.op} in {case.dtype}, expected {candidate.op} in {candidate.recipe.storage}"
            )
    if not cases:
        return named
    dtypes = [candidate.recipe.storage]
    return named + draw_cases(row, cases, seed_value=seed, dtypes=dtypes, regimes=regimes, largest=largest)


def _worker(candidate: Candidate | str, settings: Settings) -> Worker:
    """Returns what runs the candidate: this process for an object, a worker process for a name."""
    if isinstance(candidate, Candidate):
        return Here(candidate, settings.device)
    return Worker(device=settings.device, threads=settings.threads, limit_s=settings.limit_s)
