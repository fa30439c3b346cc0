"""Failing cases: shrunk, saved, printed with their one-line reproduction."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from harness.campaign import Lanes
from harness.codec import to_json
from harness.explanation import reproduction
from harness.records import Record, Verdict
from harness.shards import WHOLE, Shard
from harness.store import Store, read_records

__all__ = ["report_failures"]


def report_failures(
    records: Sequence[Record], pool: Lanes, store: Store, console: Console, *, plugin: str | None, shard: Shard = WHOLE
) -> list[Record]:  # fmt: skip
    """Shrinks one failure of each kind per candidate, saves and prints it; returns the shrunk records.

    Which one does not depend on the order in which cases were done. A shard does not shrink: its first failure may not
    be the first of the whole run, which is what makes the shards together equal to it.

    Args:
        records: of the campaign's own cases.
        pool: lanes that judge smaller cases.
        store: where the shrunk records go.
        console: of results.
        plugin: plug-in file of the candidates.
        shard: which part of the campaign this is.
    """
    firsts: dict[tuple[str, str, str], Record] = {}
    for record in sorted(records, key=lambda each: (each.candidate, each.case_id)):
        # A hang costs its whole time limit at every attempt: its first case has to do.
        if record.verdict.is_failure and record.verdict is not Verdict.TIMEOUT:
            firsts.setdefault((record.op, record.candidate, record.verdict.value), record)
    if not firsts:
        return []
    if shard != WHOLE:
        for record in firsts.values():
            _tell(record, store, console, plugin)
        return []
    known = {(record.case_id, record.candidate) for record in (*records, *read_records(store.folder))}
    shrunk = []
    for record in pool.shrink(list(firsts.values())):
        if not record.verdict.is_failure:
            continue  # it did not fail again; the first record stays in the store and is printed by the report
        if (record.case_id, record.candidate) not in known:
            store.append(record)
        shrunk.append(record)
        _tell(record, store, console, plugin)
    return shrunk


def _tell(record: Record, store: Store, console: Console, plugin: str | None) -> None:
    path = _save(record, store.folder)
    console.print(f"{record.verdict.value} {record.op} {record.candidate}: {record.reason}", markup=False)
    console.print(f"  {reproduction(record, plugin=plugin)}", markup=False, soft_wrap=True, highlight=False)
    console.print(f"  saved as {path}", markup=False, soft_wrap=True, highlight=False)


def _save(record: Record, folder: Path) -> Path:
    path = folder / "failures" / f"{record.candidate}-{record.case_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(to_json(record), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return path
