"""``attest run``: the main job. Fuzz every supported candidate, time those that pass, write the report."""

import argparse
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.campaign import Item, Lanes
from harness.candidates import Found, find_candidates, select
from harness.cases import case_from_data
from harness.certify.certify import certify
from harness.cli.failures import report_failures
from harness.cli.options import (
    add_device,
    add_engine,
    add_out,
    add_shard,
    engine_of,
    items_of,
    jobs_of,
    new_folder,
    on_device,
    settings_of,
    shard_of,
)
from harness.cli.progress import collect, error_console, exit_code, interrupted, output_console
from harness.environment import snapshot
from harness.errors import UsageError
from harness.ops import OPS
from harness.profiles import PROFILES, Profile, profile
from harness.records import Record, Verdict
from harness.resources import PeakMemory
from harness.shards import WHOLE, Shard
from harness.speed import Speed
from harness.store import Store, read_records, read_run, write_certificates, write_run
from harness.strategies import DTYPES, draw_cases
from harness.verify import Settings
from optimized.candidate import Candidate
from reports.terminal import print_summary
from reports.write import write_report

__all__ = ["EXAMPLE", "HELP", "NAME", "add_arguments", "execute"]

NAME = "run"
HELP = "The main job: fuzz every supported candidate, measure speed of those that pass, write the report."
EXAMPLE = "attest run --profile quick --out attest-out/today"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("--profile", default="quick", help=f"{', '.join(PROFILES)} (default quick)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (default 0)")
    parser.add_argument(
        "--candidate", action="append", metavar="NAME",
        help="only this candidate, or those of a pattern such as 'triton-*'; may be repeated",
    )  # fmt: skip
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on with an interrupted run")
    add_shard(parser)
    add_engine(parser)
    add_device(parser)
    parser.set_defaults(device=None)  # the profile's
    add_out(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    folder, asked = _asked(arguments)
    chosen = profile(str(asked["profile"]))
    arguments.device = str(asked["device"])
    settings = settings_of(arguments)
    found = find_candidates()
    names = asked.get("candidates")
    candidates = on_device(select(found, op=None, names=names), settings.device, names=names)
    shard = Shard.parse(str(asked["shard"])) if asked.get("shard") else WHOLE
    engine = engine_of(arguments)
    plan = list(shard.part(_plan(chosen, candidates, int(asked["seed"]))))
    done = list(read_records(folder)) if arguments.resume else []
    known = {(record.case_id, record.candidate) for record in done}
    memory = PeakMemory()
    console = output_console()
    console.print(_header(asked, folder), markup=False)
    try:
        with Store(folder) as store, engine(settings, jobs_of(arguments)) as pool:
            write_run(folder, asked)
            records = done + (_broken(found, settings, known, store) if shard.number == 1 else [])
            records += _fuzz(_missing(plan, known), pool, store, str(asked["profile"]), memory)
            records += report_failures(_planned(records, plan), pool, store, console, plugin=None, shard=shard)
            timed = list(shard.part(_timed_items(chosen, candidates)))
            records += _time(_missing(timed, known), chosen, pool, store)
        if shard.number == 1:
            _certify(chosen, folder, console)
        write_run(folder, {**asked, **memory.spent()})
    except KeyboardInterrupt:
        interrupted(folder, f"attest run --resume {folder}")
        return 130
    print_summary(records, console)
    console.print(str(write_report(folder)), markup=False, soft_wrap=True, highlight=False)
    return exit_code(records)


def _header(asked: Mapping[str, Any], folder: Path) -> str:
    part = f" --shard {asked['shard']}" if asked.get("shard") else ""
    return f"attest run --profile {asked['profile']} --seed {asked['seed']}{part}: records go to {folder}"


def _planned(records: Sequence[Record], plan: Sequence[Item]) -> list[Record]:
    """Returns the records of the drawn cases: neither what was shrunk before an interruption nor what was timed."""
    keys = {(item.case.case_id, name) for item in plan for name in item.candidates}
    return [record for record in records if (record.case_id, record.candidate) in keys]


def _asked(arguments: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """Returns the folder and what the run was asked for, now or before its interruption."""
    if arguments.resume is None:
        device = arguments.device or profile(arguments.profile).device
        asked = {
            "command": NAME, "profile": arguments.profile, "seed": arguments.seed, "device": device,
            "candidates": arguments.candidate, "shard": arguments.shard,
        }  # fmt: skip
        shard_of(arguments)
        return new_folder(arguments.out), asked
    asked = read_run(arguments.resume)
    if asked.get("command") != NAME:
        raise UsageError(f"--resume: {arguments.resume} holds 'attest {asked.get('command')}', expected 'attest run'")
    if arguments.shard is not None:
        raise UsageError(f"--shard: got {arguments.shard!r} beside --resume, expected the run's own, which it keeps")
    return arguments.resume, asked


def _plan(chosen: Profile, candidates: Sequence[Candidate], seed: int) -> list[Item]:
    """Returns the cases of the profile in an order of which every beginning is like the whole.

    A run that is ended at its time has then judged every operation in every format, each by its share. It also lets the
    time left be told early.
    """
    queues = []
    for row in OPS.values():
        count = chosen.cases.get(row.name, chosen.default_cases)
        largest = chosen.largest.get(row.name, chosen.default_largest)
        items = items_of(draw_cases(row, count, seed_value=seed, dtypes=DTYPES, largest=largest), candidates)
        queues += [[item for item in items if item.case.dtype == dtype] for dtype in DTYPES]
    shares = [((index + 0.5) / len(queue), item) for queue in queues for index, item in enumerate(queue)]
    return [item for _, item in sorted(shares, key=lambda pair: pair[0])]


def _missing(items: Sequence[Item], done: AbstractSet[tuple[str, str]]) -> list[Item]:
    left = []
    for item in items:
        names = tuple(name for name in item.candidates if (item.case.case_id, name) not in done)
        if names:
            left.append(Item(item.case, names))
    return left


def _broken(found: Found, settings: Settings, known: AbstractSet[tuple[str, str]], store: Store) -> list[Record]:
    """Writes an ERROR record, with its traceback, for every plug-in that does not import."""
    records = []
    for name, trace in found.broken.items():
        if (name, name) in known:
            continue
        record = Record(
            case={"op": "plug-in", "dtype": "none", "seed": 0}, case_id=name, candidate=name, recipe={},
            verdict=Verdict.ERROR, reason=f"the plug-in does not import: {trace.strip().splitlines()[-1]}",
            environment=snapshot(settings.device, settings.threads), seed=0,
            started=datetime.now(UTC).isoformat(timespec="seconds"), traceback=trace,
        )  # fmt: skip
        store.append(record)
        records.append(record)
    return records


def _fuzz(items: Sequence[Item], pool: Lanes, store: Store, name: str, memory: PeakMemory) -> list[Record]:
    total = sum(len(item.candidates) for item in items)
    return collect(pool.verify(items), store, total=total, label=f"{name}: judging", show=lambda _: memory.look())


def _timed_items(chosen: Profile, candidates: Sequence[Candidate]) -> list[Item]:
    """Returns the profile's timed cases with their candidates."""
    cases = [
        case_from_data({"op": op, "dtype": dtype, **fields})
        for op, fields in chosen.timed.items()
        for dtype in chosen.timed_dtypes
    ]
    timed = [item for item in candidates if not any(fnmatchcase(item.name, each) for each in chosen.untimed)]
    return items_of(cases, timed)


def _time(items: Sequence[Item], chosen: Profile, pool: Lanes, store: Store) -> list[Record]:
    """Returns verified and timed records of the candidates that are compiled here."""
    if not items:
        return []
    with error_console().status("looking for what is compiled here"):
        able = pool.compiled(items)
    total = sum(len(item.candidates) for item in able)
    speed = Speed(repeats=chosen.repeats, phases=chosen.phases)
    return collect(pool.speed(able, speed), store, total=total, label="timing")


def _certify(chosen: Profile, folder: Path, console: Console) -> None:
    """Certifies the reference; without python-flint it says so and the report has no such table."""
    if not chosen.certify:
        return
    try:
        with error_console().status("certifying the reference"):
            write_certificates(folder, certify())
    except UsageError as error:
        console.print(f"reference not certified: {error}", markup=False)
