"""Packages that the machine lacks: wheels, large ones in parts, gathered over several calls and installed aside.

A transfer may be too small for a large wheel. It then comes as ``NAME.whl.part1of2`` and ``NAME.whl.part2of2``, which
may arrive in different calls: what arrived is kept in a folder of the machine, and put together once all parts are
there. ``python -m harness.gpu.wheels split FOLDER`` makes such parts.
"""

import argparse
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["PART_BYTES", "gather", "install", "main", "search_path", "split"]

PART_BYTES = 40_000_000
"""Wheels above this size are split."""

_PART = re.compile(r"(?P<wheel>.+\.whl)\.part(?P<number>\d+)of(?P<count>\d+)")
_INSTALLED = "installed.txt"


def split(folder: Path, limit: int = PART_BYTES) -> list[Path]:
    """Replaces the wheels of a folder that are above ``limit`` bytes by parts of equal size, which it returns."""
    parts = []
    for wheel in sorted(folder.glob("*.whl")):
        data = wheel.read_bytes()
        if len(data) <= limit:
            continue
        count = -(-len(data) // limit)
        size = -(-len(data) // count)
        for index in range(count):
            part = wheel.with_name(f"{wheel.name}.part{index + 1}of{count}")
            part.write_bytes(data[index * size : (index + 1) * size])
            parts.append(part)
        wheel.unlink()
    return parts


def gather(source: Path, stock: Path) -> list[str]:
    """Copies wheels and parts into the stock and puts together what is complete; returns wheels that lack parts."""
    stock.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.suffix == ".whl" or _PART.fullmatch(path.name):
            shutil.copyfile(path, stock / path.name)
    pieces: dict[str, tuple[int, dict[int, Path]]] = {}
    for path in stock.iterdir():
        found = _PART.fullmatch(path.name)
        if found is not None:
            pieces.setdefault(found["wheel"], (int(found["count"]), {}))[1][int(found["number"])] = path
    missing = []
    for wheel, (count, parts) in sorted(pieces.items()):
        if sorted(parts) != list(range(1, count + 1)):
            missing.append(wheel)
            continue
        (stock / wheel).write_bytes(b"".join(parts[number].read_bytes() for number in sorted(parts)))
        for path in parts.values():
            path.unlink()
    return missing


def install(stock: Path, site: Path) -> list[str]:
    """Installs the wheels of the stock into ``site`` unless they are there already; returns their names.

    All of them in one go and from nothing: some share a folder, which pip replaces as a whole.

    Raises:
        subprocess.CalledProcessError: pip refused one.
        zipfile.BadZipFile: a wheel is torn.
    """
    wheels = sorted(stock.glob("*.whl"))
    names = [wheel.name for wheel in wheels]
    marker = site / _INSTALLED
    if marker.is_file() and marker.read_text(encoding="utf-8").split() == names:
        return names
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.namelist()
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True)
    if wheels:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile"]
        subprocess.run([*pip, "--no-cache-dir", "--target", str(site), *map(str, wheels)], check=True)
    marker.write_text("\n".join(names) + "\n", encoding="utf-8")
    return names


def search_path(site: Path) -> list[str]:
    """Returns the folders of ``site`` that belong on the search path of modules.

    ``pip --target`` leaves ``.pth`` files unread; what the one of CUTLASS names is added here.
    """
    return [str(site), *(str(path) for path in sorted(site.glob("*/dsl_packages")))] if site.is_dir() else []


def main(arguments: Sequence[str] | None = None) -> int:
    """Splits the large wheels of a folder."""
    parser = argparse.ArgumentParser(prog="python -m harness.gpu.wheels", description="Splits large wheels.")
    parser.add_argument("command", choices=("split",))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int, default=PART_BYTES, help=f"bytes of a part (default {PART_BYTES})")
    options = parser.parse_args(arguments)
    for part in split(options.folder, options.limit):
        sys.stdout.write(f"{part.name} {part.stat().st_size}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
