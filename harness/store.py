"""The store: one folder, ``records.jsonl`` in it, a Record a line, appended and flushed after every case.

A killed run loses at most the case in flight: a torn last line is skipped with a warning, and a store that is opened
again for writing first ends that line. ``run.json`` beside it says what was asked for, so that a run can be resumed.
"""

import contextlib
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TextIO

from harness.codec import UnknownSchemaError, decode_number, from_json, to_json
from harness.errors import TestbenchError, UsageError
from harness.records import Certificate, Record

__all__ = [
    "RECORDS",
    "Store",
    "StoreWarning",
    "has_records",
    "read_certificates",
    "read_records",
    "read_run",
    "write_certificates",
    "write_run",
]

RECORDS = "records.jsonl"
RUN = "run.json"
CERTIFICATES = "certificates.json"


class StoreWarning(UserWarning):
    """A line of a store could not be read and was left out."""


class Store:
    """Appends records to a folder.

    Args:
        folder: the folder; it is created.

    Raises:
        TestbenchError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / RECORDS
            torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
            self._file: TextIO = path.open("a", encoding="utf-8")
            if torn:
                self._file.write("\n")
        except OSError as error:
            raise TestbenchError(f"store: {folder} cannot be written ({error.strerror or error})") from error

    def append(self, record: Record) -> None:
        """Writes one record and flushes it to the disk.

        Raises:
            TestbenchError: the disk refused it.
        """
        self.extend([record])

    def extend(self, records: Iterable[Record]) -> None:
        """Writes records and flushes them to the disk together.

        Raises:
            TestbenchError: the disk refused one.
        """
        try:
            for record in records:
                self._file.write(json.dumps(to_json(record), allow_nan=False) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise TestbenchError(
                f"store: {self.folder} refused a record ({error.strerror or error}); those before it are kept"
            ) from error

    def close(self) -> None:
        """Closes the file; what the disk refused before, and said so, is given up."""
        with contextlib.suppress(OSError):
            self._file.close()

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the file."""
        self.close()


def has_records(folder: Path) -> bool:
    """Returns whether a folder holds a store with something in it."""
    path = folder / RECORDS
    return path.is_file() and path.stat().st_size > 0


def read_records(folder: Path) -> Iterator[Record]:
    """Yields the records of a store in the order in which they were written.

    Raises:
        UsageError: the folder holds no store, or a record has another schema version.
    """
    path = folder / RECORDS
    if not path.is_file():
        raise UsageError(f"store: got {str(folder)!r}, expected a folder with a {RECORDS}")
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield from_json(line)
            except UnknownSchemaError as error:
                raise UsageError(f"{path} line {number}: {error}") from error
            except UsageError as error:
                warnings.warn(f"{path} line {number} left out: {error}", StoreWarning, stacklevel=2)


def write_run(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes what the run was asked for beside its records."""
    _write(folder / RUN, settings)


def read_run(folder: Path, *, option: str = "--resume") -> dict[str, Any]:
    """Returns what a run was asked for.

    Args:
        folder: of the run.
        option: by which it was named, for the sentence.

    Raises:
        UsageError: the folder holds no run.
    """
    path = folder / RUN
    if not path.is_file():
        raise UsageError(f"{option}: got {str(folder)!r}, expected the folder of an earlier run (with a {RUN})")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(
            f"{option}: {path} is not JSON ({error}), expected what an earlier run was asked for"
        ) from error
    if not isinstance(data, dict):
        raise UsageError(f"{option}: {path} holds {type(data).__name__}, expected an object")
    return data


def write_certificates(folder: Path, certificates: Sequence[Certificate]) -> None:
    """Writes the certification table beside the records."""
    _write(folder / CERTIFICATES, list(certificates))


def read_certificates(folder: Path) -> list[Certificate]:
    """Returns the certification table of a store; empty when the run made none."""
    path = folder / CERTIFICATES
    if not path.is_file():
        return []
    numbers = ("distance", "limit", "radius")
    return [
        Certificate(**{**item, **{name: decode_number(item[name]) for name in numbers}})
        for item in json.loads(path.read_text(encoding="utf-8"))
    ]


def _write(path: Path, value: object) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(to_json(value), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise TestbenchError(f"store: {path} cannot be written ({error.strerror or error})") from error
