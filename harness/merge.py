"""Joins the stores of several machines, or the shards of one run, into one store."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import TestbenchError, UsageError
from harness.hardest import CORPUS, Hardest, read_corpus, write_corpus
from harness.records import Record, worst_verdict
from harness.shards import Shard, missing_shards
from harness.store import Store, read_certificates, read_records, read_run, write_certificates, write_run

__all__ = ["Merged", "merge"]

_OF_ONE_MACHINE = ("shard", "plugin", "elapsed_s", "peak_memory_gb")
"""What the runs of several machines may differ in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What came of it.

    Attributes:
        records: of the new store.
        repeated: how many records were left out because another store holds the same case on the same candidate.
        disagreements: a sentence for every case on which two stores have another verdict; the gravest was kept.
        missing: shards that no folder holds.
    """

    records: Sequence[Record]
    repeated: int
    disagreements: Sequence[str]
    missing: Sequence[Shard]


def merge(folders: Sequence[Path], out: Path) -> Merged:
    """Writes the records, certificates, saved failures and hard cases of several folders into a new one.

    Args:
        folders: runs of the same command on the same commit.
        out: a new or an empty folder.

    Raises:
        UsageError: a folder holds no run, or the runs were asked for different things or are of different commits.
        TestbenchError: the new folder cannot be written.
    """
    asked = [read_run(folder, option="merge") for folder in folders]
    _refuse_others(asked, folders)
    present = [Shard.parse(str(each["shard"])) for each in asked if each.get("shard")]
    missing = missing_shards(present)
    found: dict[tuple[str, str], Record] = {}
    disagreements = []
    repeated = 0
    for folder in folders:
        for record in read_records(folder):
            key = (record.case_id, record.candidate)
            other = found.setdefault(key, record)
            if other is record:
                continue
            repeated += 1
            if other.verdict is not record.verdict:
                disagreements.append(
                    f"{record.candidate} on case {record.case_id}: {other.verdict} in one store, {record.verdict} in "
                    f"{folder}"
                )
            found[key] = _kept(other, record)
    records = list(found.values())
    _refuse_commits(records)
    with Store(out) as store:
        store.extend(records)
    write_run(out, {key: value for key, value in asked[0].items() if key not in _OF_ONE_MACHINE})
    _copy_rest(folders, out)
    return Merged(records=records, repeated=repeated, disagreements=disagreements, missing=missing)


def _kept(one: Record, other: Record) -> Record:
    """Returns the graver of two records of a case; of equals the one with times, else the first."""
    if one.verdict is not other.verdict:
        return other if worst_verdict([one.verdict, other.verdict]) is other.verdict else one
    return other if other.timings and not one.timings else one


def _refuse_others(asked: Sequence[Mapping[str, Any]], folders: Sequence[Path]) -> None:
    for each, folder in zip(asked[1:], folders[1:], strict=True):
        for name in dict.fromkeys((*asked[0], *each)):
            if name not in _OF_ONE_MACHINE and asked[0].get(name) != each.get(name):
                raise UsageError(
                    f"merge: got {folder} with {name} {each.get(name)!r}, expected {asked[0].get(name)!r} as in "
                    f"{folders[0]}"
                )


def _refuse_commits(records: Sequence[Record]) -> None:
    commits = sorted({str(record.environment.get("commit")) for record in records})
    if len(commits) > 1:
        raise UsageError(f"merge: got records of the commits {', '.join(commits)}, expected those of one")


def _copy_rest(folders: Sequence[Path], out: Path) -> None:
    certificates = next((found for folder in folders if (found := read_certificates(folder))), [])
    if certificates:
        write_certificates(out, certificates)
    corpora = [folder / CORPUS for folder in folders if (folder / CORPUS).is_file()]
    if corpora:
        write_corpus(out / CORPUS, Hardest([entry for path in corpora for entry in read_corpus(path)]).entries())
    try:
        for folder in folders:
            for path in sorted((folder / "failures").glob("*.json")):
                (out / "failures").mkdir(exist_ok=True)
                shutil.copyfile(path, out / "failures" / path.name)
    except OSError as error:
        raise TestbenchError(f"merge: {out} cannot be written ({error.strerror or error})") from error
