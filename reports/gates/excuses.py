"""Known failures: a file that says which verdicts are expected, why, where that is followed, and until when.

An excuse is for a candidate that fails today and is going to be mended. It expires, so that nobody forgets it, and it
trips the gate as soon as nothing fails any more that it could excuse.
"""

import datetime as dt
import fnmatch
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.codec import to_json
from harness.errors import UsageError, nearest
from harness.records import Record, Verdict
from reports.gates.trip import Trip

__all__ = ["KNOWN_FAILURES", "Excuse", "read_excuses", "unexcused"]

KNOWN_FAILURES = "known_failures.toml"
_FIELDS = ("id", "candidate", "reason", "link", "expires", "verdict", "case")
_REQUIRED = _FIELDS[:5]
_VERDICTS = tuple(verdict.value for verdict in Verdict if verdict.is_failure)


@dataclass(frozen=True, slots=True, kw_only=True)
class Excuse:
    """A known failure.

    Attributes:
        id: name of the entry.
        candidate: name of the candidate, or a pattern such as ``"triton-rope-*"``.
        reason: why it fails.
        link: where that is followed.
        expires: the last day on which it counts.
        verdict: the only verdict that it excuses; None means every failing one.
        case: fields of the only cases that it excuses, for instance ``{"regime": "massive"}``.
    """

    id: str
    candidate: str
    reason: str
    link: str
    expires: dt.date
    verdict: str | None = None
    case: Mapping[str, Any] = field(default_factory=dict)

    def concerns(self, record: Record) -> bool:
        """Returns whether a record is of its candidate and its cases."""
        return fnmatch.fnmatchcase(record.candidate, self.candidate) and all(
            name in record.case and to_json(record.case[name]) == value for name, value in self.case.items()
        )

    def excuses(self, record: Record) -> bool:
        """Returns whether a record fails as it says."""
        return self.concerns(record) and record.verdict.is_failure and self.verdict in {None, record.verdict.value}


def read_excuses(path: Path) -> list[Excuse]:
    """Returns the entries of a file of known failures.

    Raises:
        UsageError: there is no such file, or an entry lacks something, or holds something unknown.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--known: got {str(path)!r}, expected a file of known failures") from error
    except ValueError as error:
        raise UsageError(f"--known: {path} is not TOML ({error})") from error
    for name in data:
        if name != "failure":
            raise UsageError(f"--known: {path} holds {name!r}, expected tables [[failure]]{nearest(name, ['failure'])}")
    items = data.get("failure", [])
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise UsageError(f"--known: {path} holds a failure that is no table, expected [[failure]]")
    excuses = [_excuse(item, f"--known: {path}, failure {number}") for number, item in enumerate(items, start=1)]
    twice = [item.id for item in excuses if [each.id for each in excuses].count(item.id) > 1]
    if twice:
        raise UsageError(f"--known: {path} has the id {twice[0]!r} twice, expected every id once")
    return excuses


def _excuse(item: Mapping[str, Any], place: str) -> Excuse:
    for name in item:
        if name not in _FIELDS:
            raise UsageError(f"{place}: got field {name!r}, expected {', '.join(_FIELDS)}{nearest(name, _FIELDS)}")
    missing = [name for name in _REQUIRED if item.get(name) in (None, "")]
    if missing:
        raise UsageError(f"{place}: got no {', '.join(missing)}, expected {', '.join(_REQUIRED)}")
    for name in ("id", "candidate", "reason", "link"):
        if not isinstance(item[name], str):
            raise UsageError(f"{place}, {name}: got {item[name]!r}, expected text")
    if type(item["expires"]) is not dt.date:
        raise UsageError(f"{place}, expires: got {item['expires']!r}, expected a day such as 2030-12-31")
    if item.get("verdict") is not None and item["verdict"] not in _VERDICTS:
        hint = nearest(str(item["verdict"]), _VERDICTS)
        raise UsageError(f"{place}, verdict: got {item['verdict']!r}, expected one of {', '.join(_VERDICTS)}{hint}")
    if not isinstance(item.get("case", {}), dict):
        raise UsageError(f"{place}, case: got {item['case']!r}, expected a table of case fields")
    return Excuse(**item)


def unexcused(
    records: Sequence[Record], excuses: Sequence[Excuse], today: dt.date, path: Path | None
) -> tuple[list[Record], list[Trip]]:
    """Returns the failing records that nothing excuses, and what trips of the excuses themselves.

    Args:
        records: of the run.
        excuses: the known failures.
        today: the day on which they have to count.
        path: their file, for the command.
    """
    valid = [item for item in excuses if item.expires >= today]
    trips = [
        Trip(
            sentence=f"known failure {item.id!r} expired on {item.expires}: {item.reason} ({item.link})",
            command=f"grep -n {item.id} {path}",
        )
        for item in excuses
        if item not in valid
    ]
    for item in valid:
        concerned = [record for record in records if item.concerns(record)]
        if concerned and not any(item.excuses(record) for record in concerned):
            trips.append(
                Trip(
                    sentence=(
                        f"known failure {item.id!r} is stale: none of {len(concerned)} cases of {item.candidate} fails "
                        f"like that any more, take it out"
                    ),
                    command=f"grep -n {item.id} {path}",
                )
            )
    failing = [record for record in records if record.verdict.is_failure]
    return [record for record in failing if not any(item.excuses(record) for item in valid)], trips
