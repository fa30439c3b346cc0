"""The hardest cases that a campaign met: per candidate those with the largest error and those with the largest sums.

They are where a search starts from, and what the suite ``past`` is made of. ``corpus.jsonl`` holds one a line.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from harness.cases import case_from_data
from harness.codec import to_json
from harness.errors import TestbenchError, UsageError, nearest
from harness.operations.case import Case
from harness.records import Judgement, Record, Verdict

__all__ = ["CORPUS", "KEPT", "Hard", "Hardest", "hardness", "read_corpus", "read_lines", "write_corpus"]

CORPUS = "corpus.jsonl"

KEPT = 5
"""Cases kept per candidate and measure: a candidate has one operation and one storage dtype."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hard:
    """A case that was hard for a candidate.

    Attributes:
        case: the case.
        candidate: who was judged.
        ratio: largest ``|error| / tolerance`` over all elements of all tensors where it can grow; infinite where a
            value was not finite.
        tensor: the output or gradient of that element.
        gain: largest ``|value| / limit`` over the tests of all elements together.
        test: tensor and name of that test.
    """

    case: Case
    candidate: str
    ratio: float
    tensor: str
    gain: float
    test: str

    def to_data(self) -> dict[str, Any]:
        """Returns it as JSON data."""
        return {
            "case": self.case.to_data(), "candidate": self.candidate, "ratio": to_json(self.ratio),
            "tensor": self.tensor, "gain": to_json(self.gain), "test": self.test,
        }  # fmt: skip


_AT_THE_LIMIT = 0.9

_MEASURES: Mapping[str, Callable[[Hard], tuple[float, float]]] = {
    "ratio": lambda entry: (entry.ratio, entry.gain),
    "gain": lambda entry: (entry.gain, entry.ratio),
}
"""What is ranked by, and by what where that is equal."""


def hardness(record: Record) -> Hard | None:
    """Returns how hard a case was; None where nothing was compared.

    A tensor that its case cannot decide (NO_POWER) says nothing about hardness. Nor does the ratio of one whose
    round-to-nearest execution is at its limit as well: that is half a unit of the store, which every kernel comes to.
    """
    judged = [item for item in record.judgements if item.max_ratio is not None or _is_nonfinite(item)]
    judged = [item for item in judged if item.verdict is not Verdict.NO_POWER]
    if not judged:
        return None
    ratio, tensor = max(((_ratio(item), item.output) for item in judged if not _is_stored(item)), default=(0.0, ""))
    tests = [(test.excess, f"{item.output} {test.name}") for item in judged for test in item.aggregates]
    gain, name = max(tests, default=(0.0, ""))
    return Hard(
        case=case_from_data(record.case), candidate=record.candidate, ratio=ratio, tensor=tensor, gain=gain, test=name
    )  # fmt: skip


def _is_nonfinite(item: Judgement) -> bool:
    return item.verdict is Verdict.FAIL_NONFINITE


def _is_stored(item: Judgement) -> bool:
    """Returns whether the largest error may be no more than the rounding of the last store."""
    return item.max_ratio is not None and item.max_ratio <= 1 and (item.nearest_ratio or 0.0) >= _AT_THE_LIMIT


def _ratio(item: Judgement) -> float:
    ratio = item.max_ratio if item.max_ratio is not None else math.inf
    return ratio if not math.isnan(ratio) else math.inf


class Hardest:
    """Keeps, per candidate, the cases with the largest ratios and those with the largest gains, one per value regime.

    One per regime, because the next hardest case is nearly always the hardest with another seed or layout.

    Args:
        entries: what is known already; a case that is added again is kept as it was added last.
        kept: how many of each.
    """

    def __init__(self, entries: Iterable[Hard] = (), *, kept: int = KEPT) -> None:
        self._kept = kept
        self._best: dict[str, dict[tuple[str, str], Hard]] = {}
        for entry in entries:
            self.add(entry)

    def add(self, entry: Hard | None) -> None:
        """Adds a case if it is harder than what is known."""
        if entry is None:
            return
        own = self._best.setdefault(entry.candidate, {})
        for measure, rank in _MEASURES.items():
            place = (measure, entry.case.regime)
            known = own.get(place)
            if known is None or known.case == entry.case or rank(entry) > rank(known):
                own[place] = entry

    def entries(self) -> list[Hard]:
        """Returns what is kept: by candidate, the largest ratios first."""
        found: dict[tuple[str, str], Hard] = {}
        for name in sorted(self._best):
            for measure, rank in _MEASURES.items():
                own = [entry for (each, _), entry in self._best[name].items() if each == measure]
                own.sort(key=rank, reverse=True)
                found |= {(name, entry.case.case_id): entry for entry in own[: self._kept]}
        return list(found.values())

    def cases(self, op: str, dtype: str) -> list[Case]:
        """Returns the different cases of an operation and dtype, the largest ratio or gain first."""
        own = [entry for entry in self.entries() if entry.case.op == op and entry.case.dtype == dtype]
        own.sort(key=lambda entry: -max(entry.ratio, entry.gain))
        return list({entry.case.case_id: entry.case for entry in own}.values())


# -- on disk ---------------------------------------------------------------------------------------------------------


def read_lines(path: Path, names: Sequence[str], what: str) -> list[dict[str, Any]]:
    """Returns the objects of a file with one line of JSON each, all of which have exactly the named fields.

    Their ``case`` is a Case.

    Args:
        path: the file.
        names: the fields of every line.
        what: what the file is asked for as, for the sentence: ``"--corpus"``.

    Raises:
        UsageError: no such file, a broken line, an unknown or missing field, an impossible case.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"{what}: got {str(path)!r} ({reason}), expected a file of cases, one line of JSON each"
        ) from error
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                found.append(_object(line, names))
            except UsageError as error:
                raise UsageError(f"{what}: {path} line {number}: {error}") from error
    return found


def _object(line: str, names: Sequence[str]) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise UsageError(f"got text that is not JSON ({error}), expected one object") from error
    if not isinstance(data, dict):
        raise UsageError(f"got JSON {type(data).__name__}, expected an object")
    for name in data:
        if name not in names:
            raise UsageError(f"got field {name!r}, expected {', '.join(names)}{nearest(name, names)}")
    missing = [name for name in names if name not in data]
    if missing:
        raise UsageError(f"got no {', '.join(missing)}, expected a value for each of {', '.join(names)}")
    if not isinstance(data["case"], dict):
        raise UsageError(f"case: got {data['case']!r}, expected an object")
    return {**data, "case": case_from_data(data["case"])}


def read_corpus(path: Path) -> list[Hard]:
    """Returns the cases of a corpus.

    Raises:
        UsageError: the file is not there, or a line of it is no hard case.
    """
    entries = []
    for number, data in enumerate(read_lines(path, [field.name for field in fields(Hard)], "--corpus"), start=1):
        numbers = {name: _number(data[name], f"--corpus: {path} case {number}, {name}") for name in _MEASURES}
        if not all(isinstance(data[name], str) for name in ("candidate", "tensor", "test")):
            raise UsageError(f"--corpus: {path} case {number}: expected text for candidate, tensor and test")
        entries.append(Hard(**{**data, **numbers}))
    return entries


def _number(value: object, place: str) -> float:
    number = math.inf if value == "inf" else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not number >= 0:
        raise UsageError(f"{place}: got {value!r}, expected a number of at least 0")
    return float(number)


def write_corpus(path: Path, entries: Iterable[Hard]) -> None:
    """Writes a corpus in place of what the file held.

    Raises:
        TestbenchError: the file cannot be written.
    """
    partial = path.with_suffix(".partial")
    try:
        lines = [json.dumps(entry.to_data(), separators=(",", ":"), allow_nan=False) + "\n" for entry in entries]
        partial.write_text("".join(lines), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise TestbenchError(f"corpus: {path} cannot be written ({error.strerror or error})") from error
