"""``attest check``: judges candidates on a fixed list of cases instead of drawn ones."""

import argparse

from harness.candidates import find_candidates, select
from harness.cli.failures import report_failures
from harness.cli.options import (
    add_candidates,
    add_device,
    add_engine,
    add_out,
    add_relations,
    add_shard,
    engine_of,
    items_of,
    jobs_of,
    new_folder,
    require_items,
    settings_of,
    shard_of,
    warn_broken,
)
from harness.cli.progress import collect, exit_code, interrupted, output_console
from harness.errors import UsageError
from harness.ops import OPS, operation
from harness.store import Store, write_run
from harness.suites import SUITES, suite
from reports.terminal import print_summary

__all__ = ["EXAMPLE", "HELP", "NAME", "add_arguments", "execute"]

NAME = "check"
HELP = "Judge candidates on a fixed list of cases instead of fuzzing."
EXAMPLE = "attest check --suite smoke --op rms_norm"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("--suite", required=True, help=f"one of {', '.join(SUITES)}")
    parser.add_argument("--op", default=None, help="only this operation (default: all)")
    add_candidates(parser)
    add_shard(parser)
    add_engine(parser)
    add_device(parser)
    add_relations(parser)
    add_out(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    rows = [operation(arguments.op)] if arguments.op else list(OPS.values())
    cases = [case for row in rows for case in suite(arguments.suite, row)]
    if not cases:
        raise UsageError(
            f"--op: the suite {arguments.suite!r} has no case of {arguments.op!r}, expected another operation"
        )
    settings = settings_of(arguments)
    found = find_candidates(arguments.plugin)
    warn_broken(found)
    candidates = select(found, op=arguments.op, names=arguments.candidate)
    items = items_of(cases, [item for item in candidates if arguments.device in item.devices])
    require_items(items, cases)
    shard = shard_of(arguments)
    items = list(shard.part(items))
    engine = engine_of(arguments)
    folder = new_folder(arguments.out)
    console = output_console()
    with Store(folder) as store, engine(settings, jobs_of(arguments)) as pool:
        write_run(folder, {
            "command": NAME, "suite": arguments.suite, "op": arguments.op, "shard": arguments.shard,
            "candidates": arguments.candidate, "plugin": arguments.plugin,
        })  # fmt: skip
        try:
            total = sum(len(item.candidates) for item in items)
            records = collect(pool.verify(items), store, total=total, label=f"check {arguments.suite}")
            report_failures(records, pool, store, console, plugin=arguments.plugin, shard=shard)
        except KeyboardInterrupt:
            pool.kill()
            interrupted(folder, f"attest report {folder} (what there is), or the same command for all of it")
            return 130
    print_summary(records, console)
    console.print(f"records: {folder}", markup=False, soft_wrap=True)
    return exit_code(records)
