"""Leaves a folder as a few files that a small transfer can carry, each below a size."""

import io
import tarfile
from pathlib import Path

__all__ = ["LARGEST_FILE", "pack", "packed_files"]

LARGEST_FILE = 15_000_000
"""Bytes of one packed file."""

_NAME = "campaign.tar.xz"


def pack(folder: Path, target: Path, *, largest: int = LARGEST_FILE) -> list[Path]:
    """Writes the folder as ``campaign.tar.xz``, in parts where it is larger than one file may be; returns the files.

    Args:
        folder: what is packed.
        target: where the files go; earlier ones are replaced.
        largest: bytes of a file.
    """
    target.mkdir(parents=True, exist_ok=True)
    for path in packed_files(target):
        path.unlink()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz", preset=3) as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, arcname=f"{folder.name}/{path.name}")
    data = buffer.getvalue()
    if len(data) <= largest:
        (target / _NAME).write_bytes(data)
    else:
        for index, start in enumerate(range(0, len(data), largest)):
            (target / f"{_NAME}.part{index + 1}").write_bytes(data[start : start + largest])
    return packed_files(target)


def packed_files(target: Path) -> list[Path]:
    """Returns the packed files of a folder; ``cat`` in this order gives the archive."""
    return sorted(target.glob(f"{_NAME}*"))
