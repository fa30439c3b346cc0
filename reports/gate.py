"""What a change made worse: results beside a committed baseline, a sentence for everything that was lost.

A baseline is one JSON file for one class of devices, with a section per kind of evidence: ``campaign`` (the records of
a run), ``speed`` (its paired times), ``power`` (of ``attest power``) and ``codegen`` (of ``attest codegen``, with the
``compilers`` that made it). Each has a file in ``reports.gates`` that says what of the results goes into it, what was
lost beside it, and what else changed.
"""

import datetime as dt
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import TestbenchError, UsageError
from harness.pool import failing, pooled
from harness.power_results import has_power, read_power
from harness.records import Record
from harness.store import has_records, read_records, read_run
from reports.explain import reproduction
from reports.gates.campaign import campaign_section, device_class, subject_of
from reports.gates.codegen import (
    CODEGEN,
    codegen_section,
    lost_codegen,
    other_compilers,
    read_codegen,
    same_projects,
    told_of_codegen,
)
from reports.gates.excuses import KNOWN_FAILURES, Excuse, read_excuses, unexcused
from reports.gates.power import lost, section_of, told
from reports.gates.regressions import lost_in_campaign, told_of_campaign
from reports.gates.speed import lost_speed, speed_section, told_of_speed
from reports.gates.trip import Trip

__all__ = [
    "BASELINES",
    "BASELINE_SCHEMA",
    "Evidence",
    "Trip",
    "baseline_file",
    "changes",
    "known_failures",
    "lost",
    "read_baseline",
    "read_evidence",
    "section_of",
    "told",
    "trips",
    "write_baseline",
]

BASELINES = Path(__file__).resolve().parent / "baselines"
"""The baselines of a checkout."""

BASELINE_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a folder holds.

    Attributes:
        sections: as they would stand in a baseline, by name.
        records: of a campaign.
        examinations: of ``attest codegen``.
        plugin: plug-in file of the candidates.
    """

    sections: Mapping[str, Any]
    records: Sequence[Record] = ()
    examinations: Sequence[Mapping[str, Any]] = ()
    plugin: str | None = None


def read_evidence(folder: Path) -> Evidence:
    """Returns what the gate can compare in a folder.

    Raises:
        UsageError: there is nothing, or it cannot be read.
    """
    sections: dict[str, Any] = {}
    records: list[Record] = []
    examinations: Sequence[Mapping[str, Any]] = ()
    plugin = None
    if has_records(folder):
        asked = read_run(folder, option="gate")
        plugin = asked.get("plugin")
        records = list(read_records(folder))
        sections["campaign"] = campaign_section(records, asked)
        speed = speed_section(records)
        sections |= {} if speed is None else {"speed": speed}
    if has_power(folder):
        sections["power"] = section_of(read_power(folder))
    if (folder / CODEGEN).is_file():
        examinations, compilers = read_codegen(folder)
        sections |= {"compilers": compilers, "codegen": codegen_section(examinations)}
    if not sections:
        raise UsageError(
            f"gate: got {str(folder)!r}, expected a folder of attest run, fuzz, check, bench, power or codegen"
        )
    return Evidence(sections=sections, records=records, examinations=examinations, plugin=plugin)


def baseline_file(path: Path, evidence: Evidence) -> Path:
    """Returns the baseline that was named; of a folder, the one for the class of devices of the results."""
    if not path.is_dir():
        return path
    return path / f"{device_class(evidence.records) if evidence.records else 'cpu'}.json"


def known_failures(path: Path | None, baseline: Path) -> tuple[list[Excuse], Path | None]:
    """Returns the known failures and their file: the one that was named, else the one beside the baseline, if any."""
    beside = baseline.parent / KNOWN_FAILURES
    found = path if path is not None else beside if beside.is_file() else None
    return ([] if found is None else read_excuses(found)), found


def trips(
    evidence: Evidence,
    before: Mapping[str, Any],
    excuses: Sequence[Excuse] = (),
    *,
    today: dt.date,
    known: Path | None = None,
) -> list[Trip]:
    """Returns everything that got worse.

    Args:
        evidence: of the results.
        before: the sections of the baseline.
        excuses: known failures.
        today: the day on which they have to count.
        known: their file.

    Raises:
        UsageError: results and baseline have no section in common, or cannot be compared.
    """
    now = evidence.sections
    if not any(name in before for name in now):
        raise UsageError(
            f"--baseline: got one with {', '.join(before) or 'nothing'}, expected {' or '.join(now)} as in the results"
        )

    def show(record: Record) -> str:
        extra = f" --plugin {evidence.plugin}" if evidence.plugin else ""
        return reproduction(record) + extra

    found: list[Trip] = []
    if evidence.records:
        left, found = unexcused(evidence.records, excuses, today, known)
        found = [*_failing(left, before, show), *_pooled_failing(evidence.records, left, show), *found]
    if "campaign" in now and "campaign" in before:
        found += lost_in_campaign(now["campaign"], before["campaign"], evidence.records, show)
    if "speed" in now and "speed" in before:
        found += lost_speed(now["speed"], before["speed"])
    if "power" in now and "power" in before:
        found += lost(now["power"], before["power"])
    if "codegen" in now and "codegen" in before:
        found += _lost_codegen(evidence, before)
    return found


def _lost_codegen(evidence: Evidence, before: Mapping[str, Any]) -> list[Trip]:
    """Returns what got worse of the code, unless it is that of another compiler."""
    now = evidence.sections
    if "compilers" not in before:
        return lost_codegen(now["codegen"], before["codegen"], evidence.examinations)
    both = now["compilers"], before["compilers"]
    return other_compilers(*both) or lost_codegen(
        same_projects(now["codegen"], *both)[0], same_projects(before["codegen"], *both)[0], evidence.examinations
    )


def _failing(left: Sequence[Record], before: Mapping[str, Any], show: Callable[[Record], str]) -> list[Trip]:
    """Returns a trip for every candidate and failing verdict that nothing excuses, with its first case."""
    subjects = before.get("campaign", {}).get("subjects", {})
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in left:
        groups.setdefault((subject_of(record), record.verdict.value), []).append(record)
    return [
        Trip(
            sentence=(
                f"{name}: {verdict} on {len(records)} cases, was on "
                f"{len(subjects.get(name, {}).get('cases', {}).get(verdict, []))}: {records[0].reason}"
            ),
            command=show(records[0]),
        )
        for (name, verdict), records in groups.items()
    ]


def _pooled_failing(
    records: Sequence[Record], left: Sequence[Record], show: Callable[[Record], str]
) -> list[Trip]:  # fmt: skip
    """Returns a trip for every test over the whole campaign that fails, of candidates whose every case passes."""
    told_already = {record.candidate for record in left}
    return [
        Trip(
            sentence=test.sentence,
            command=show(next(record for record in records if record.candidate == candidate)),
        )
        for candidate, tests in failing(pooled(records)).items()
        for test in tests
        if candidate not in told_already
    ]


def changes(evidence: Evidence, before: Mapping[str, Any]) -> list[str]:
    """Returns a sentence for everything that differs from a baseline, good or bad, and for what is not compared."""
    told_by: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Any]], list[str]]] = {
        "campaign": told_of_campaign, "speed": told_of_speed, "power": told, "codegen": told_of_codegen,
        "compilers": lambda now, was: same_projects({}, now, was)[1],
    }  # fmt: skip
    sentences = []
    for name, tell in told_by.items():
        if name in evidence.sections and name in before:
            sentences += tell(evidence.sections[name], before[name])
        elif name in before:
            sentences.append(f"not compared: {name}, which these results do not have")
        elif name in evidence.sections:
            sentences.append(f"not compared: {name}, which the baseline does not have")
    return sentences


_WANTED = {
    "power": ("profile", "cases", "seed", "faults", "alarms"),
    "campaign": ("device", "asked", "seed", "subjects"),
    "speed": (),
    "codegen": (),
    "compilers": ("made", "projects"),
}
"""The sections that there are, and what each has to hold."""


def read_baseline(path: Path) -> dict[str, Any]:
    """Returns the sections of a baseline by name.

    Raises:
        UsageError: there is no such file, or it is no baseline, or one of another schema version.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--baseline: got {str(path)!r}, expected a file that --update wrote") from error
    except ValueError as error:
        raise UsageError(f"--baseline: {path} is not JSON ({error}), expected a file that --update wrote") from error
    if not isinstance(data, dict) or data.get("schema") != BASELINE_SCHEMA:
        got = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise UsageError(f"--baseline: {path} has schema {got!r}, expected {BASELINE_SCHEMA}")
    sections = {name: value for name, value in data.items() if name != "schema"}
    for name, section in sections.items():
        if name not in _WANTED:
            raise UsageError(f"--baseline: {path} has a section {name!r}, expected {', '.join(_WANTED)}")
        if not isinstance(section, dict) or any(field not in section for field in _WANTED[name]):
            raise UsageError(f"--baseline: {path} has a section {name!r} without {', '.join(_WANTED[name])}")
    return sections


def write_baseline(path: Path, sections: Mapping[str, Any]) -> None:
    """Writes a baseline.

    Raises:
        TestbenchError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"schema": BASELINE_SCHEMA, **sections}, indent=1, allow_nan=False) + "\n"
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise TestbenchError(f"--baseline: {path} cannot be written ({error.strerror or error})") from error
