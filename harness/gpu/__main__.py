"""Runs the campaign on a GPU, in pieces: a step that fails or takes too long does not keep the next from running.

``python -m harness.gpu --out DIR`` from a plain checkout; a further call with the same folder goes on with the steps
that have not ended yet. ``--rehearse`` runs the same steps in small on a machine without a GPU. Wheels that the machine
lacks lie in a folder (``--wheels``), large ones in parts named ``NAME.whl.part0``, ``.part1``, ...; they are installed
beside the machine's packages, not among them.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from harness.gpu.steps import CAMPAIGN, REHEARSAL, Step, steps

__all__ = ["main"]

ENDED = "ended.json"
"""File of the folder that says which steps ended, how, and how long they took."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the steps and returns 1 if one of them did not end well, 2 for wrong usage."""
    options = _options(arguments)
    folder: Path = options.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    size = REHEARSAL if options.rehearse else CAMPAIGN
    device = "cpu" if options.rehearse else "cuda"
    planned = steps(folder, device=device, size=size, jobs=options.jobs, candidates=options.candidate)
    chosen = [step for step in planned if any(fnmatch(step.name, pattern) for pattern in options.steps.split(","))]
    if not chosen:
        names = ", ".join(step.name for step in planned)
        sys.stderr.write(f"--steps: got {options.steps!r}, expected patterns of these: {names}\n")
        return 2
    environment = _environment(options.wheels, options.site)
    ended = _read(folder)
    stops = time.monotonic() + 60 * options.minutes
    for step in chosen:
        left = stops - time.monotonic()
        if ended.get(step.name, {}).get("code") in (0, 1) or left < 5:
            continue
        ended[step.name] = _run(step, folder, environment, left)
        (folder / ENDED).write_text(json.dumps(ended, indent=1) + "\n", encoding="utf-8")
    _pack(folder)
    for step in chosen:
        how = ended.get(step.name)
        sys.stdout.write(f"{step.name}: {'not begun' if how is None else _say(how)}\n")
    return int(any(ended.get(step.name, {}).get("code") != 0 for step in chosen))


def _run(step: Step, folder: Path, environment: dict[str, str], left: float) -> dict[str, object]:
    """Runs a step into its log and returns its exit code (None where it was ended) and its seconds."""
    began = time.monotonic()
    with (folder / f"{step.name}.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(step.command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            code: int | None = process.wait(timeout=min(60 * step.minutes, left))
        except subprocess.TimeoutExpired:
            process.terminate()  # lanes end with their campaign; every record is on the disk already
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
            code = None
    return {"code": code, "seconds": round(time.monotonic() - began, 1)}


def _say(how: dict[str, object]) -> str:
    code = "ended after its time" if how["code"] is None else f"exit code {how['code']}"
    return f"{code}, {how['seconds']} s"


def _environment(wheels: Path | None, site: Path) -> dict[str, str]:
    """Returns the environment of the steps, with the wheels installed into ``site`` where a folder is given."""
    paths = [str(Path(__file__).resolve().parents[2])]
    if wheels is not None:
        _join(wheels)
        files = sorted(str(path) for path in wheels.glob("*.whl"))
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--upgrade"]
        subprocess.run([*pip, "--target", str(site), *files], check=True)
    if site.is_dir():
        # pip --target does not process .pth files: what they name is named here.
        paths = [paths[0], str(site), *(str(path) for path in site.glob("*/dsl_packages"))]
    before = os.environ.get("PYTHONPATH")
    joined = os.pathsep.join([*paths, *([before] if before else [])])
    return {**os.environ, "PYTHONPATH": joined, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def _join(wheels: Path) -> None:
    """Puts wheels together that came in parts."""
    for first in wheels.glob("*.whl.part0"):
        whole = first.with_suffix("")
        parts = sorted(wheels.glob(f"{whole.name}.part*"), key=lambda path: int(path.suffix.removeprefix(".part")))
        whole.write_bytes(b"".join(part.read_bytes() for part in parts))


def _pack(folder: Path) -> None:
    """Leaves everything as one archive beside the folder's own files."""
    with tarfile.open(folder / "all.tar.gz", "w:gz") as archive:
        for path in sorted(folder.iterdir()):
            if path.name != "all.tar.gz":
                archive.add(path, arcname=path.name)


def _read(folder: Path) -> dict[str, dict[str, object]]:
    path = folder / ENDED
    found: dict[str, dict[str, object]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m harness.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of everything; the same one goes on")
    parser.add_argument("--steps", default="*", help="patterns of step names with commas between (default all)")
    parser.add_argument("--minutes", type=float, default=600, help="begin nothing and end everything after this time")
    parser.add_argument("--candidate", action="append", default=[], help="only this candidate or pattern; repeatable")
    parser.add_argument("--jobs", type=int, help="lanes in parallel (default one per core)")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install first")
    parser.add_argument("--site", type=Path, default=Path("/tmp/attest-site"), help="where wheels are installed")
    parser.add_argument("--rehearse", action="store_true", help="the same steps in small, without a GPU")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
