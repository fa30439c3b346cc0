"""What ``attest power`` leaves behind: ``power.json`` and ``power.csv``. Standard library only."""

import csv
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.codec import decode_number, to_json
from harness.errors import TestbenchError, UsageError

__all__ = [
    "OURS",
    "POWER",
    "POWER_SCHEMA",
    "FaultScore",
    "PowerResults",
    "Resolution",
    "RuleScore",
    "Share",
    "has_power",
    "read_power",
    "write_power",
]

POWER = "power.json"
POWER_SCHEMA = 1
OURS = "attest"
"""The name of attest's own judge among the rules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultScore:
    """A seeded fault in one storage dtype.

    Attributes:
        key: ``"B032/attention/heads-tiled/bfloat16"``.
        id: of the catalogue of real bugs.
        name: what is wrong.
        op: the operation.
        dtype: storage dtype.
        phase: ``forward`` or ``gradient``.
        what: one sentence.
        source: where it really happened.
        detectors: kinds of check that can find it, the most telling first.
        cases: cases that it met.
        reached: those on which it was not equivalent to its healthy twin.
        caught: of those, how many attest failed.
        cases_needed: reached cases up to the first that was caught; None for a survivor.
        verdict: of that case.
        detector: the plainest check that failed it.
        reason: its sentence.
        case: the case as JSON data.
        compared: reached runs among the first cases, which every fault meets and by which rules are compared.
        rules: by rule, how many of those it fails.
        first: by rule, how many of those it fails by the operation's first output alone.
        regimes: by value regime, compared runs and how many of them attest failed.
        broken: runs that ended in ERROR or TIMEOUT although the fault is of another kind: not counted.
        excuse: why it survives, where the catalogue says so.
    """

    key: str
    id: str
    name: str
    op: str
    dtype: str
    phase: str
    what: str
    source: str
    detectors: Sequence[str]
    cases: int
    reached: int
    caught: int
    cases_needed: int | None = None
    verdict: str = ""
    detector: str = ""
    reason: str = ""
    case: Mapping[str, Any] = field(default_factory=dict)
    compared: int = 0
    rules: Mapping[str, int] = field(default_factory=dict)
    first: Mapping[str, int] = field(default_factory=dict)
    regimes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    broken: int = 0
    excuse: str = ""

    @property
    def outcome(self) -> str:
        """``caught``, ``survivor``, or ``unreached`` where no case showed it."""
        return "caught" if self.caught else "survivor" if self.reached else "unreached"


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """How much of a part was caught: faults (in each dtype) and compared runs."""

    name: str
    faults: int
    faults_caught: int
    runs: int
    runs_caught: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleScore:
    """A rule on the compared runs of all faults, and on their healthy twins.

    Attributes:
        rule: its name.
        runs: reached runs of faults.
        caught: how many of them it fails.
        faults: faults (in each dtype) with a reached run.
        faults_caught: how many of them it fails at least once.
        forward: the same for faults of the forward pass by the first output alone: faults, caught, runs, caught.
        healthy: runs of healthy twins.
        alarms: how many of them it fails.
        alarms_by_dtype: by storage dtype, runs of healthy twins and how many of them it fails.
    """

    rule: str
    runs: int
    caught: int
    faults: int
    faults_caught: int
    forward: Sequence[int]
    healthy: int
    alarms: int
    alarms_by_dtype: Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """The smallest error of a kind that is caught with 95 % chance on one case.

    Attributes:
        op: the operation.
        dtype: storage dtype.
        kind: ``gain``, ``key`` (weight of one key, beta of one token), ``element``; ``pooled gain`` over a campaign.
        dose: smallest relative error of the ladder; None where the largest is caught less often.
        median: dose that half of the cases catch.
        cases: cases that the doses were planted into.
    """

    op: str
    dtype: str
    kind: str
    dose: float | None
    median: float | None
    cases: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerResults:
    """All of a run of ``attest power``.

    Attributes:
        asked: options of the command that change its result.
        environment: see ``harness.environment``.
        faults: a row per fault and dtype.
        rules: attest and the rules of other projects.
        operations: by operation.
        detectors: by the kind of check that can find a fault.
        regimes: by value regime; its faults are those that reach it.
        phases: forward and gradient.
        found_by: how many faults each check of attest caught first.
        resolution: smallest errors that are caught.
        not_seeded: real bugs that are not in the catalogue, and why.
        alarms: sentences about healthy twins that attest failed.
        seconds: wall time.
        schema: version of this format.
    """

    asked: Mapping[str, Any]
    environment: Mapping[str, Any]
    faults: Sequence[FaultScore]
    rules: Sequence[RuleScore]
    operations: Sequence[Share] = ()
    detectors: Sequence[Share] = ()
    regimes: Sequence[Share] = ()
    phases: Sequence[Share] = ()
    found_by: Mapping[str, int] = field(default_factory=dict)
    resolution: Sequence[Resolution] = ()
    not_seeded: Mapping[str, str] = field(default_factory=dict)
    alarms: Sequence[str] = ()
    seconds: float = 0.0
    schema: int = POWER_SCHEMA


def has_power(folder: Path) -> bool:
    """Returns whether a folder holds the results of ``attest power``."""
    return (folder / POWER).is_file()


def write_power(folder: Path, results: PowerResults) -> None:
    """Writes ``power.json``, all of it, and ``power.csv``, one line per fault and dtype.

    Raises:
        TestbenchError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(to_json(results), indent=1, allow_nan=False) + "\n"
        (folder / POWER).write_text(text, encoding="utf-8")
        rows = [_row(item) for item in results.faults]
        with (folder / "power.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]) if rows else ["key"])
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise TestbenchError(f"power: {folder} cannot be written ({error.strerror or error})") from error


def read_power(folder: Path) -> PowerResults:
    """Returns the results of a folder.

    Raises:
        UsageError: it holds none, or they are of another schema version or incomplete.
    """
    path = folder / POWER
    if not path.is_file():
        raise UsageError(f"power: got {str(folder)!r}, expected a folder with a {POWER}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.get("schema") != POWER_SCHEMA:
            raise UsageError(f"power: {path} has schema {data.get('schema')!r}, expected {POWER_SCHEMA}")
        shares = ("operations", "detectors", "regimes", "phases")
        data |= {name: [Share(**item) for item in data[name]] for name in shares}
        data["faults"] = [FaultScore(**item) for item in data["faults"]]
        data["rules"] = [RuleScore(**item) for item in data["rules"]]
        numbers = ("dose", "median")
        data["resolution"] = [
            Resolution(**item | {name: decode_number(item[name]) for name in numbers}) for item in data["resolution"]
        ]
        return PowerResults(**data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"power: {path} is no result of attest power ({type(error).__name__}: {error})") from error


def _row(item: FaultScore) -> dict[str, Any]:
    row = {each.name: getattr(item, each.name) for each in dataclasses.fields(item)}
    row |= {"detectors": " ".join(item.detectors), "outcome": item.outcome}
    row["case"] = json.dumps(to_json(item.case), separators=(",", ":")) if item.case else ""
    for name in ("rules", "first", "regimes"):
        del row[name]
    return row | {f"caught by {rule}": count for rule, count in item.rules.items()}
