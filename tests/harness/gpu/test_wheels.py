"""Wheels that come in parts over several calls, and where they are installed."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from harness.gpu.wheels import gather, install, search_path, split

NAME = "tiny-1.0-py3-none-any.whl"


def wheel(folder: Path, name: str = "tiny", padding: int = 0) -> Path:
    """Writes a wheel of one module, which shares the folder ``common`` with others."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"common/{name}.py", "VALUE = 7\n")
        archive.writestr("common/dsl_packages/inner.py", "VALUE = 8\n")
        archive.writestr("common/padding", os.urandom(padding))
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def test_parts_that_come_in_two_calls_are_put_together(tmp_path: Path) -> None:
    whole = wheel(tmp_path / "made", padding=3000).read_bytes()
    parts = split(tmp_path / "made", limit=len(whole) // 2 + 1)
    for call, part in enumerate(parts):
        carried = tmp_path / f"call{call}"
        carried.mkdir()
        part.rename(carried / part.name)
        missing = gather(carried, tmp_path / "stock")
        assert missing == ([NAME] if call == 0 else [])
    assert (tmp_path / "stock" / NAME).read_bytes() == whole


def test_a_small_wheel_stays_whole(tmp_path: Path) -> None:
    path = wheel(tmp_path / "made")
    assert (split(tmp_path / "made"), path.exists()) == ([], True)


def test_installed_wheels_can_be_imported_with_what_their_pth_files_name(tmp_path: Path) -> None:
    pytest.importorskip("pip")
    wheel(tmp_path / "stock")
    install(tmp_path / "stock", tmp_path / "site")
    wheel(tmp_path / "stock", "other")  # a later call brings a wheel that shares a folder with the first
    install(tmp_path / "stock", tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(search_path(tmp_path / "site"))}
    program = "import inner, common.tiny, common.other; print(inner.VALUE, common.tiny.VALUE, common.other.VALUE)"
    found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout == "8 7 7\n"


def test_a_torn_wheel_is_refused_before_anything_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "stock").mkdir()
    (tmp_path / "stock" / NAME).write_bytes(b"torn")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "kept").touch()
    with pytest.raises(zipfile.BadZipFile):
        install(tmp_path / "stock", tmp_path / "site")
    assert (tmp_path / "site" / "kept").exists()


def test_without_wheels_nothing_is_on_the_search_path(tmp_path: Path) -> None:
    assert search_path(tmp_path / "site") == []
