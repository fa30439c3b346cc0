"""A planted fault that shows in a rare corner only, and records of it without a worker."""

from collections.abc import Callable
from typing import Any

from harness.cases import case_from_data
from harness.operations.case import Case
from harness.ops import OPS
from harness.records import Aggregate, Judgement, Record, Verdict
from harness.search import Space, search

__all__ = ["CASES", "NORM", "ROW", "corner", "norm", "record", "searched"]

ROW = OPS["short_conv"]
CASES = 200
"""Of a search, and of the draw beside it."""
NORM: dict[str, Any] = {"op": "rms_norm", "batch": 1, "tokens": 2, "channels": 8}


def corner(case: Case) -> float:
    """Returns the error ratio of a planted fault: it grows with five things that are rare, and needs all to fail."""
    data = case.to_data()
    signs = (
        data["regime"] == "large",
        data["taps"] == 5,
        data["tokens"] in {17, 33, 65},
        data["cotangent"] == "one_hot",
        data["batch"] == 3 and data["mask"],
    )
    return 0.25 + 0.16 * signs.count(True)


def record(case: Case, ratio: float, *tests: float, candidate: str = "c", verdict: Verdict = Verdict.PASS) -> Record:
    """Returns a record as the judge would make it, with a ratio and aggregates that are so many limits off."""
    aggregates = [Aggregate(name=f"test{index}", value=test, limit=1.0, error=0.1) for index, test in enumerate(tests)]
    reason = "" if verdict is Verdict.PASS else "beyond its limit"
    item = Judgement(output="out", verdict=verdict, reason=reason, max_ratio=ratio, elements=1, aggregates=aggregates)
    return Record(
        case=case.to_data(), case_id=case.case_id, candidate=candidate, recipe={}, verdict=verdict, reason=reason,
        judgements=[item], environment={}, seed=case.seed, started="",
    )  # fmt: skip


def searched(ratio: Callable[[Case], float], **space: Any) -> list[Case]:
    """Returns the cases that a search came to."""
    met: list[Case] = []

    def judge(case: Case) -> list[Record]:
        met.append(case)
        return [record(case, ratio(case))]

    search(Space(row=ROW, dtype="float32", **space), judge)
    return met


def norm(**fields: Any) -> Case:
    return case_from_data({**NORM, **fields})
