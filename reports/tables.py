"""Records as tables: one pandas DataFrame per question, with units in the column names.

A ratio that is not a number is written as infinity, because such an error is beyond every tolerance; an empty cell
means that nothing was measured.
"""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from statistics import NormalDist
from typing import TypeVar

import pandas as pd

from harness.pool import Pooled
from harness.records import Aggregate, Certificate, Judgement, Phases, Record, Verdict, worst_verdict
from reports.explain import (
    case_json,
    dtype_of,
    explain,
    gravest_judgement,
    length_of,
    ratio_gravity,
    reproduction,
    shape_summary,
)
from reports.text import place, plain

__all__ = [
    "certification_table",
    "cost_table",
    "coverage_table",
    "error_table",
    "failure_table",
    "open_records",
    "pooled_table",
    "relation_table",
    "speed_table",
]

Item = TypeVar("Item")
Key = TypeVar("Key")

_PHASES = tuple(item.name for item in fields(Phases))
_SHARES = tuple(f"{name.removesuffix('_s')}_share" for name in _PHASES)

_COLUMNS = {
    "errors": "op candidate dtype output cases verdict verdicts worst_ratio worst_case_id worst_where median_ratio "
    "worst_gain worst_gain_low worst_gain_high worst_gain_limit rms_ratio smallest_gain_caught median_gain_caught "
    "smallest_element_caught median_element_caught",
    "speed": "op candidate dtype phase shape tokens median_us low_us high_us repeats threads how baseline ratio "
    "ratio_low ratio_high noise verdict floor_us share case_id",
    "failures": "op candidate dtype verdict is_failure reason output max_ratio max_error where actual expected bound "
    "rms_ratio case_id seed started case reproduction explanation traceback",
    "coverage": f"op candidate dtype cases judged verdict {' '.join(Verdict)} unsupported_reasons unchecked_outputs",
    "relations": "op candidate relation cases verdict verdicts reason",
    "pooled": "op candidate dtype output test cases verdict value limit error excess",
    "costs": f"op candidate cases total_s per_case_s {' '.join(_PHASES)} {' '.join(_SHARES)}",
    "certification": "op output cases elements distance limit within_limit radius bits",
}


def error_table(records: Sequence[Record]) -> pd.DataFrame:
    """Returns how far each output and gradient was from the truth, one row per (op, candidate, dtype, output).

    ``worst_ratio`` is the largest ``|error| / tolerance`` and ``worst_where`` its element by named axes;
    ``worst_gain`` is the relative gain that came closest to (or furthest beyond) its limit; ``smallest_*_caught`` is
    the smallest fault that the sharpest case would have caught, ``median_*_caught`` that of the median case.
    """
    pairs = [(record, judged) for record in records for judged in record.judgements]
    groups = _grouped(pairs, lambda pair: (*_subject(pair[0]), plain(pair[1].output)))
    return _frame("errors", [(*key, *_error_cells(group)) for key, group in groups.items()])


def _error_cells(group: Sequence[tuple[Record, Judgement]]) -> tuple[object, ...]:
    judgements = [judged for _, judged in group]
    measured = [
        (ratio_gravity(judged.max_ratio), record, judged) for record, judged in group if judged.max_ratio is not None
    ]
    ratio, record, judged = max(measured, key=lambda item: item[0], default=(None, None, None))
    gain = max(
        (test for judged in judgements for test in judged.aggregates if test.name == "gain"), key=_strain, default=None
    )
    return (
        len(group),
        worst_verdict([judged.verdict for judged in judgements]).value,
        _tally(judged.verdict for judged in judgements),
        ratio,
        None if record is None else plain(record.case_id),
        None if judged is None else place(judged.worst_index),
        _median([item[0] for item in measured]),
        *((None,) * 3 if gain is None else _interval(gain)),
        None if gain is None else gain.limit,
        _largest([judged.rms_ratio for judged in judgements]),
        *_caught([judged.smallest_gain for judged in judgements]),
        *_caught([judged.smallest_element for judged in judgements]),
    )


def _interval(gain: Aggregate) -> tuple[float, float, float]:
    """Returns a gain with its interval of 99 %."""
    half = NormalDist().inv_cdf(0.995) * gain.error
    return gain.value, gain.value - half, gain.value + half


def speed_table(records: Sequence[Record]) -> pd.DataFrame:
    """Returns every measured time with its interval and, where there is one, the ratio to its baseline."""
    rows = []
    for record in records:
        for timing in record.timings:
            beside = timing.comparison
            ratios = (None,) * 6 if beside is None else (
                plain(beside.baseline), beside.ratio, beside.low, beside.high, beside.noise, plain(beside.verdict)
            )  # fmt: skip
            times = (timing.median_us, timing.low_us, timing.high_us, timing.repeats, timing.threads)
            floor = (timing.floor_us, None if timing.floor_us is None else timing.floor_us / timing.median_us)
            identity = (
                *_subject(record),
                plain(timing.phase),
                shape_summary(record, limit=400),
                length_of(record.case),
            )
            rows.append((*identity, *times, plain(timing.how), *ratios, *floor, plain(record.case_id)))
    return _frame("speed", rows)


def failure_table(records: Sequence[Record]) -> pd.DataFrame:
    """Returns every record that is neither PASS nor UNSUPPORTED, the gravest first, with its reproduction.

    ``is_failure`` tells the verdicts that make a command exit with 1 from NO_POWER and AMBIGUOUS.
    """
    return _frame("failures", [_failure_row(record) for record in open_records(records)])


def open_records(records: Sequence[Record]) -> list[Record]:
    """Returns the records that are neither PASS nor UNSUPPORTED, the gravest first."""
    gravity = list(Verdict)
    closed = {Verdict.PASS, Verdict.UNSUPPORTED}
    return sorted(
        (record for record in records if record.verdict not in closed),
        key=lambda record: (-gravity.index(record.verdict), _subject(record)),
    )


def _failure_row(record: Record) -> tuple[object, ...]:
    judged = gravest_judgement(record) or Judgement(output="", verdict=record.verdict)
    return (
        *_subject(record),
        record.verdict.value,
        record.verdict.is_failure,
        plain(record.reason),
        plain(judged.output),
        None if judged.max_ratio is None else ratio_gravity(judged.max_ratio),
        judged.max_error,
        place(judged.worst_index) if judged.worst_index else None,
        *(_exact(value) for value in (judged.actual, judged.expected, judged.bound)),
        judged.rms_ratio,
        plain(record.case_id),
        record.seed,
        plain(record.started),
        plain(case_json(record)),
        plain(reproduction(record)),
        " ".join(explain(record)),
        plain(record.traceback, keep_lines=True),
    )


def coverage_table(records: Sequence[Record]) -> pd.DataFrame:
    """Returns what was tried and what came of it, one row per (op, candidate, dtype), a column per verdict.

    ``judged`` counts the cases in which at least one output was compared; ``verdict`` is the gravest of the cases that
    the candidate supports, and UNSUPPORTED when it supports none.
    """
    groups = _grouped(records, _subject)
    return _frame("coverage", [(*key, *_coverage_cells(group)) for key, group in groups.items()])


def _coverage_cells(group: Sequence[Record]) -> tuple[object, ...]:
    counts = Counter(record.verdict for record in group)
    reasons = Counter(plain(record.reason) for record in group if record.verdict is Verdict.UNSUPPORTED)
    unchecked = Counter(plain(name) for record in group for name in record.unchecked)
    return (
        len(group),
        sum(bool(record.judgements) for record in group),
        _judged_verdict(counts).value,
        *(counts[verdict] for verdict in Verdict),
        _counted(reasons),
        _counted(unchecked),
    )


def relation_table(records: Sequence[Record]) -> pd.DataFrame:
    """Returns the exact checks, one row per (op, candidate, relation), with the first reason of the gravest verdict."""
    pairs = [(record, relation) for record in records for relation in record.relations]
    groups = _grouped(pairs, lambda pair: (*_subject(pair[0])[:2], plain(pair[1].name)))
    rows = []
    for key, group in groups.items():
        verdicts = [relation.verdict for _, relation in group]
        worst = worst_verdict(verdicts)
        reason = next((plain(relation.reason) for _, relation in group if relation.verdict is worst), "")
        rows.append((*key, len(group), worst.value, _tally(verdicts), reason))
    return _frame("relations", rows)


def pooled_table(tests: Sequence[Pooled]) -> pd.DataFrame:
    """Returns the tests that pool all cases, the one closest to its limit first; gains are relative, 0.01 = 1 %."""
    rows = [
        (plain(item.op), plain(item.candidate), plain(item.dtype), plain(item.output), plain(item.test), item.cases,
         item.verdict.value, item.value, item.limit, item.error, item.excess)
        for item in sorted(tests, key=lambda item: -item.excess)
    ]  # fmt: skip
    return _frame("pooled", rows)


def cost_table(records: Sequence[Record]) -> pd.DataFrame:
    """Returns where the time of the judged cases went, one row per (op, candidate): seconds and shares per phase.

    ``worker`` is the price of judging in a separate process: its round trip without the candidate's own time.
    """
    groups = _grouped([record for record in records if record.judgements], lambda record: _subject(record)[:2])
    rows = []
    for key, group in groups.items():
        seconds = [math.fsum(getattr(record.phases, name) for record in group) for name in _PHASES]
        total = math.fsum(seconds)
        shares = [part / total if total else None for part in seconds]
        rows.append((*key, len(group), total, total / len(group), *seconds, *shares))
    return _frame("costs", rows)


def certification_table(certificates: Sequence[Certificate]) -> pd.DataFrame:
    """Returns how far the float64 reference is from its enclosure by ball arithmetic."""
    rows = [
        (plain(item.op), plain(item.output), item.cases, item.elements, item.distance, item.limit,
         item.distance <= item.limit, item.radius, item.bits)
        for item in certificates
    ]  # fmt: skip
    return _frame("certification", rows)


def _frame(name: str, rows: Iterable[tuple[object, ...]]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=_COLUMNS[name].split())


def _subject(record: Record) -> tuple[str, str, str]:
    return plain(record.op), plain(record.candidate), plain(dtype_of(record))


def _grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return dict(sorted(groups.items(), key=lambda entry: str(entry[0])))


def _tally(verdicts: Iterable[Verdict]) -> str:
    counts = Counter(verdicts)
    return ", ".join(f"{verdict} {counts[verdict]}" for verdict in Verdict if counts[verdict])


def _judged_verdict(counts: Counter[Verdict]) -> Verdict:
    supported = [verdict for verdict in counts if verdict is not Verdict.UNSUPPORTED]
    return worst_verdict(supported or [Verdict.UNSUPPORTED])


def _counted(counts: Counter[str]) -> str:
    return "; ".join(f"{text} ({count})" for text, count in counts.most_common())


def _strain(test: Aggregate) -> float:
    return test.excess


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _largest(values: Iterable[float | None]) -> float | None:
    return max((ratio_gravity(value) for value in values if value is not None), default=None)


def _caught(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    measured = [value for value in values if value is not None and math.isfinite(value)]
    return min(measured, default=None), _median(measured)


def _exact(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else repr(value)
