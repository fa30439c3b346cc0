"""Runs the campaign on a GPU, in pieces: a step that fails or takes too long does not keep the next from running.

``python -m harness.gpu`` from a plain checkout; a further call with the same ``--out`` goes on with the steps that have
not ended yet. ``--rehearse`` runs the same steps in small on a machine without a GPU. Wheels that the machine lacks lie
in a folder (``--wheels``); they are installed beside the machine's packages, not among them.
"""

import argparse
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from harness.gpu.pack import pack
from harness.gpu.runner import Outcome, read_outcomes, run_step, write_outcomes
from harness.gpu.steps import Plan, Step, steps
from harness.gpu.wheels import gather, install, search_path

__all__ = ["main"]

_SHORTEST_S = 20.0
"""Less time than this is left for the packing: no step begins in it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the steps and returns 0, or 1 if one of them has not ended well, 2 for wrong usage."""
    options = _parser().parse_args(arguments)
    stops = time.monotonic() + 60 * options.minutes
    folder: Path = options.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    plan = Plan(
        folder=folder, is_rehearsal=options.rehearse, jobs=options.jobs or os.cpu_count() or 1,
        candidates=options.candidate, commit=options.commit,
    )  # fmt: skip
    planned = steps(plan)
    chosen = [step for step in planned if any(fnmatch(step.name, pattern) for pattern in options.steps.split(","))]
    if not chosen and options.steps != "none":
        names = ", ".join(step.name for step in planned)
        sys.stderr.write(f"--steps: got {options.steps!r}, expected patterns of these, or none: {names}\n")
        return 2
    outcomes = read_outcomes(folder)
    setup = _set_up(options.wheels, options.stock, options.site)
    environment = _environment(folder, options.site)
    for step in chosen:
        left = stops - time.monotonic()
        before = outcomes.get(step.name)
        if (before is not None and before.has_ended) or left < _SHORTEST_S:
            continue
        sys.stdout.write(f"{step.name} ...\n")
        sys.stdout.flush()
        outcomes[step.name] = run_step(step, folder, environment, limit_s=min(60 * step.minutes, left), before=before)
        write_outcomes(folder, outcomes)
        sys.stdout.write(f"{step.name}: {outcomes[step.name].sentence}\n")
    if options.pack is not None:
        for path in pack(folder, options.pack):
            sys.stdout.write(f"packed: {path} {path.stat().st_size}\n")
    return _close(chosen, outcomes, setup)


def _close(chosen: Sequence[Step], outcomes: dict[str, Outcome], setup: str) -> int:
    """Prints how every step ended and returns the exit code."""
    sys.stdout.write("\n")
    if setup:
        sys.stdout.write(f"setup: {setup}\n")
    for step in chosen:
        found = outcomes.get(step.name)
        sys.stdout.write(f"{step.name}: {'not begun' if found is None else found.sentence}\n")
    well = all(step.name in outcomes and outcomes[step.name].code == 0 for step in chosen)
    return 0 if well and not setup else 1


def _set_up(wheels: Path | None, stock: Path, site: Path) -> str:
    """Installs the wheels; returns what went wrong in a sentence: the steps run without them then."""
    if wheels is None:
        return ""
    try:
        missing = gather(wheels, stock)
        names = install(stock, site)
    except (OSError, subprocess.CalledProcessError, zipfile.BadZipFile) as error:
        return f"the wheels of {wheels} are not installed ({type(error).__name__}: {error})"
    sys.stdout.write(f"wheels: {len(names)} installed in {site}; waiting for parts of {len(missing)}\n")
    return ""


def _environment(folder: Path, site: Path) -> dict[str, str]:
    """Returns the environment of the steps: this checkout and what was installed aside come first."""
    before = os.environ.get("PYTHONPATH")
    paths = [str(Path(__file__).resolve().parents[2]), *search_path(site), *([before] if before else [])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        # Workers share what FlashAttention 4 compiled; Triton's own cache does the same without being asked.
        "FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED": "1",
        "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR": str(folder.parent / f"{folder.name}-flash4-cache"),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("attest-out/gpu"), help="folder of everything; the same one goes on"
    )
    parser.add_argument(
        "--steps", default="*", help="patterns of step names with commas between (default all), or none"
    )
    parser.add_argument("--minutes", type=float, default=600, help="end everything by then, packing included")
    parser.add_argument("--candidate", action="append", default=[], help="only this candidate or pattern; repeatable")
    parser.add_argument("--jobs", type=int, help="lanes in parallel (default one per core)")
    parser.add_argument("--commit", default="", help="of the checkout, where git is not there to tell")
    parser.add_argument("--wheels", type=Path, help="folder of wheels, or of parts of them, to install first")
    parser.add_argument("--stock", type=Path, default=Path("/tmp/attest-wheels"), help="where wheels are gathered")
    parser.add_argument("--site", type=Path, default=Path("/tmp/attest-site"), help="where wheels are installed")
    parser.add_argument("--pack", type=Path, help="leave everything as one archive, in parts if large, in this folder")
    parser.add_argument("--rehearse", action="store_true", help="the same steps in small, without a GPU")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
