"""Runs items, writes their records and shows how far it is; what a Ctrl-C leaves behind."""

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from harness.cli.options import Deadline
from harness.pool import failing, pooled
from harness.records import Record
from harness.store import Store

__all__ = ["collect", "error_console", "exit_code", "interrupted", "output_console"]


def error_console() -> Console:
    """Returns the console of everything that is not a result."""
    return Console(file=sys.stderr, emoji=False)


def output_console(*, stderr: bool = False) -> Console:
    """Returns the console of results; a file or a pipe has no width of its own, so it gets a wide one."""
    console = Console(stderr=stderr, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = 160
    return console


def collect(
    records: Iterable[Record],
    store: Store,
    *,
    total: int | None,
    label: str,
    deadline: Deadline | None = None,
    show: Callable[[Record], None] | None = None,
) -> list[Record]:
    """Writes records as they come, with a progress bar on stderr, and returns them.

    Args:
        records: a campaign's records.
        store: where they go.
        total: how many are expected; None if only the time is limited.
        label: what the bar says.
        deadline: stop when it is over.
        show: called with every record.
    """
    collected = []
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]}"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=error_console()) as bar:
        task = bar.add_task(label, total=total, failed="")
        failed = 0
        for record in records:
            store.append(record)
            collected.append(record)
            failed += record.verdict.is_failure
            bar.update(task, advance=1, failed=f"{failed} failed" if failed else "")
            if show is not None:
                show(record)
            if deadline is not None and deadline.is_over():
                break
    return collected


def exit_code(records: Sequence[Record]) -> int:
    """Returns 1 when a kernel failed, on a case or over all of them together, else 0."""
    return int(any(record.verdict.is_failure for record in records) or bool(failing(pooled(records))))


def interrupted(folder: Path, how: str) -> None:
    """Says what an interruption left and how to go on."""
    sys.stderr.write(f"attest: interrupted; the records so far are in {folder}; go on with: {how}\n")
