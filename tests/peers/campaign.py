"""Judges every peer on a CPU, forward and gradients, and writes ``docs/peers.md`` from the records.

``python -m tests.peers.campaign`` takes 10 to 20 minutes on 2 cores; ``--project fla --cases 3`` is a part, which
leaves the page alone. Of each kind of failure of a candidate one is shrunk, and the line that the page prints for a
failure is run: the campaign exits with 1 when one does not fail again.
"""

import argparse
import contextlib
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from harness.campaign import lanes
from harness.candidates import load_plugin
from harness.explanation import reproduction
from harness.records import Record, Verdict
from harness.store import Store, read_records, write_run
from harness.verify import Settings
from tests.peers.findings import Finding, findings
from tests.peers.page import page
from tests.peers.plan import planned
from tests.peers.projects import PROJECTS, command, plugin_of

__all__ = ["main", "replays"]

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "peers.md"

_LIMIT_S = 60.0
_JUDGED_AGAIN = 300.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the campaign and returns the exit code."""
    options = _options(arguments)
    started = time.monotonic()
    with Store(options.out) as store:
        write_run(
            options.out,
            {"command": "peers", "cases": options.cases, "seed": options.seed, "versions": versions()},
        )
        for project in () if options.page_only else options.project or PROJECTS:
            _judge(project, store, options, started)
    records = list(read_records(options.out))
    found = findings(records)
    silent = replays(found, jobs=options.jobs)
    for finding in silent:
        _say(f"does not fail again: {command(finding.record)}")
    if not options.project:
        PAGE.write_text(page(records, command=options.shown, versions=versions()), encoding="utf-8")
        _say(f"page: {PAGE}")
    counts = {name: sum(record.verdict is name for record in records) for name in Verdict}
    names = len({record.candidate for record in records})
    _say(f"{names} candidates, {len(records)} records, {counts[Verdict.PASS]} passed, {len(found)} findings")
    _say(f"{time.monotonic() - started:.0f} s")
    return 1 if silent else 0


def _judge(project: str, store: Store, options: argparse.Namespace, started: float) -> None:
    """Judges the peers of a project; of each kind of failure of a candidate one is shrunk."""
    plugin = plugin_of(project)
    candidates = [item for item in load_plugin(plugin) if options.device in item.devices]
    items = planned(candidates, cases=options.cases, seed=options.seed)
    settings = Settings(device=options.device, plugin=plugin, limit_s=_LIMIT_S, relations="none")
    failed: dict[tuple[str, tuple[str, ...]], Record] = {}
    seen = set()
    with lanes(settings, options.jobs) as pool:
        for record in pool.verify(items):
            store.append(record)
            seen.add((record.case_id, record.candidate))
            if record.verdict.is_failure and record.verdict is not Verdict.TIMEOUT:
                outputs = tuple(item.output for item in record.judgements if item.verdict.is_failure)
                failed.setdefault((record.candidate, outputs[:1]), record)
        for record in pool.shrink(list(failed.values())):
            if record.verdict.is_failure and (record.case_id, record.candidate) not in seen:
                seen.add((record.case_id, record.candidate))
                store.append(record)
    _say(f"{project}: {len(candidates)} candidates, {len(seen)} records, {time.monotonic() - started:.0f} s")


def versions() -> dict[str, str]:
    """Returns the versions of what is judged and of Triton, as far as they are installed."""
    found = {}
    for name in dict.fromkeys([*(project.package for project in PROJECTS.values()), "triton"]):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def replays(found: Sequence[Finding], *, jobs: int) -> list[Finding]:
    """Runs the line of every finding and returns those that do not fail again."""
    with ThreadPoolExecutor(jobs) as pool:
        return [finding for finding, code in zip(found, pool.map(_replayed, found), strict=True) if code != 1]


def _replayed(finding: Finding) -> int:
    words = shlex.split(reproduction(finding.record, plugin=plugin_of(finding.candidate.partition("-")[0])))
    line = [sys.executable, "-m", "harness", *words[1:]]
    finished = subprocess.run(line, cwd=ROOT, capture_output=True, check=False, timeout=_JUDGED_AGAIN)
    return finished.returncode


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", action="append", choices=list(PROJECTS), help="only this one; may be repeated")
    parser.add_argument("--cases", type=int, default=5, help="cases that a candidate takes (default 5)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (default 0)")
    parser.add_argument("--jobs", type=int, default=2, help="lanes in parallel (default 2)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where they run (default cpu)")
    parser.add_argument("--out", type=Path, default=ROOT / "attest-out" / "peers", help="folder of the records")
    parser.add_argument("--page-only", action="store_true", help="write the page from the records that are there")
    options = parser.parse_args(arguments)
    options.shown = f"nox -s peers -- --cases {options.cases} --seed {options.seed}"
    return options


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
