"""What a baseline keeps of a campaign's records: per candidate its verdicts, ratios and pooled errors.

Cases are named, so that a run of the same cases is compared case by case; a run of other cases is compared by the tests
of ``reports.gates.shift``. Numbers have four digits: enough to compare, few enough to read in a diff.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.codec import to_json
from harness.errors import UsageError
from harness.records import Aggregate, Judgement, Record, Verdict

__all__ = ["NAMED", "campaign_section", "device_class", "pooled_errors", "subject_of"]

NAMED = ("command", "profile", "suite", "op", "cases", "regimes", "largest", "candidates", "shard")
"""What a run must have been asked for alike to be compared; the seed may differ."""

_POOLED = ("gain", "along:", "spread", "lean")
_NUMERIC = frozenset({Verdict.PASS, Verdict.AMBIGUOUS})


def device_class(records: Sequence[Record]) -> str:
    """Returns the device that a baseline is for: ``"cpu"``, or the name of a GPU such as ``"nvidia-h100"``.

    Raises:
        UsageError: the records are of several.
    """
    found = sorted({_device(record.environment) for record in records})
    if len(found) != 1:
        raise UsageError(f"gate: got records of the devices {', '.join(found) or 'none'}, expected those of one")
    return found[0]


def _device(environment: Mapping[str, Any]) -> str:
    if environment.get("device") != "cuda":
        return str(environment.get("device"))
    words = str(environment.get("device_name")).lower().replace("/", " ").split()
    return "-".join(word for word in words if word.isalnum()) or "cuda"


def subject_of(record: Record) -> str:
    """Returns who a record is about: ``"rope/triton-rope-bf16"``."""
    return f"{record.op}/{record.candidate}"


def campaign_section(records: Sequence[Record], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the section ``campaign`` of a baseline.

    Args:
        records: of a run.
        asked: what the run was asked for.

    Raises:
        UsageError: there are no records, or they are of several devices.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(subject_of(record), []).append(record)
    return {
        "device": device_class(records),
        "asked": {name: to_json(asked[name]) for name in NAMED if asked.get(name) is not None},
        "seed": asked.get("seed", 0),
        "subjects": {name: _subject(groups[name]) for name in sorted(groups)},
    }


def _subject(records: Sequence[Record]) -> dict[str, Any]:
    outputs = sorted({item.output for record in records for item in record.judgements})
    return {
        "recipe": dict(records[0].recipe),
        "cases": _cases(records),
        "outputs": {name: _output(name, records) for name in outputs},
    }


def _cases(records: Sequence[Record]) -> dict[str, list[str]]:
    """Returns the case ids by what came of them: the tensors that were judged, or why none was."""
    found: dict[str, set[str]] = {}
    for record in records:
        what = " ".join(item.output for item in record.judgements) if record.verdict in _NUMERIC else record.verdict
        found.setdefault(str(what), set()).add(record.case_id)
    return {what: sorted(found[what]) for what in sorted(found)}


def _output(name: str, records: Sequence[Record]) -> dict[str, Any]:
    judged = [item for record in records for item in record.judgements if item.output == name]
    counted = [item for item in judged if item.verdict in _NUMERIC]
    return {
        "judged": len(judged),
        "no_power": sum(item.verdict is Verdict.NO_POWER for item in judged),
        "ambiguous": sum(item.verdict is Verdict.AMBIGUOUS for item in judged),
        "ratio": _sample(item.max_ratio for item in counted),
        "rms": _sample(item.rms_ratio for item in counted),
        "smallest_gain": _sample(item.smallest_gain for item in counted),
        "pooled": pooled_errors(counted),
    }


def _sample(values: Iterable[float | None]) -> list[float]:
    return sorted(_rounded(value) for value in values if value is not None and not math.isnan(value))


def _rounded(value: float) -> float:
    return float(f"{value:.4g}") if math.isfinite(value) else math.copysign(1e308, value)


def pooled_errors(judgements: Iterable[Judgement]) -> dict[str, list[float]]:
    """Returns, by the name of the test, the mean over all cases and its standard error.

    A case weighs as much as its variance is small. The variance is the largest of all that makes a legal execution
    differ from the truth there, coherent errors included: two runs of one kernel on other cases differ by those too.
    """
    groups: dict[str, list[Aggregate]] = {}
    for item in judgements:
        for test in item.aggregates:
            if test.name.startswith(_POOLED) and _counts(test):
                groups.setdefault(test.name, []).append(test)
    return {name: _pooled(groups[name]) for name in sorted(groups)}


def _counts(test: Aggregate) -> bool:
    return test.weight > 0 and all(map(math.isfinite, (test.value, test.error, test.nearest, test.directed)))


def _pooled(tests: Sequence[Aggregate]) -> list[float]:
    weights = [1 / max(test.error**2, test.nearest**2, test.directed**2, 1 / test.weight) for test in tests]
    total = math.fsum(weights)
    value = math.fsum(weight * test.value for weight, test in zip(weights, tests, strict=True)) / total
    # Cases may differ among themselves by more than each admits: then that is what the mean is uncertain by.
    seen = math.fsum((weight * (test.value - value)) ** 2 for weight, test in zip(weights, tests, strict=True))
    return [_rounded(value), _rounded(max(total**-0.5, seen**0.5 / total))]
