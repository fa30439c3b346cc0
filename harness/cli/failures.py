"""Failing cases: shrunk, saved, printed with their one-line reproduction."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from harness.campaign import Lanes
from harness.codec import to_json
from harness.records import Record, Verdict
from harness.store import Store

__all__ = ["report_failures", "reproduction"]

_SHRUNK_PER_CANDIDATE = 1


def report_failures(
    records: Sequence[Record], pool: Lanes, store: Store, console: Console, *, plugin: str | None
) -> list[Record]:  # fmt: skip
    """Shrinks one failure of each kind per candidate, saves and prints it; returns the shrunk records."""
    firsts: dict[tuple[str, str, str], Record] = {}
    for record in records:
        # A hang costs its whole time limit at every attempt: its first case has to do.
        if record.verdict.is_failure and record.verdict is not Verdict.TIMEOUT:
            firsts.setdefault((record.op, record.candidate, record.verdict.value), record)
    if not firsts:
        return []
    known = {(record.case_id, record.candidate) for record in records}
    shrunk = []
    for record in pool.shrink(list(firsts.values())):
        if not record.verdict.is_failure:
            continue  # it did not fail again; the first record stays in the store and is printed by the report
        if (record.case_id, record.candidate) not in known:
            store.append(record)
        shrunk.append(record)
        path = _save(record, store.folder)
        console.print(f"{record.verdict.value} {record.op} {record.candidate}: {record.reason}", markup=False)
        console.print(f"  {reproduction(record, plugin=plugin)}", markup=False, soft_wrap=True, highlight=False)
        console.print(f"  saved as {path}", markup=False, soft_wrap=True, highlight=False)
    return shrunk


def reproduction(record: Record, *, plugin: str | None = None) -> str:
    """Returns the one-line command that runs a record's case again."""
    line = json.dumps(to_json(record.case), separators=(",", ":"))
    extra = f" --plugin {shlex.quote(plugin)}" if plugin else ""
    extra += f" --relations {shlex.quote(','.join(record.broken))}" if record.broken else ""
    return f"attest replay {shlex.quote(line)} --candidate {shlex.quote(record.candidate)}{extra}"


def _save(record: Record, folder: Path) -> Path:
    path = folder / "failures" / f"{record.candidate}-{record.case_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(to_json(record), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return path
