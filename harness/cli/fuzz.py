"""``attest fuzz``: draws cases of one operation, searches for hard ones, and judges its candidates on them."""

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from harness.campaign import Item, Lanes
from harness.cli.failures import report_failures
from harness.cli.options import (
    Deadline,
    add_candidates,
    add_device,
    add_engine,
    add_out,
    add_relations,
    add_shard,
    chosen,
    engine_of,
    items_of,
    jobs_of,
    minutes,
    new_folder,
    positive,
    settings_of,
    shard_of,
)
from harness.cli.progress import collect, exit_code, interrupted, output_console
from harness.codec import to_json
from harness.errors import UsageError, nearest
from harness.hardest import CORPUS, Hardest, hardness, read_corpus, write_corpus
from harness.operations.base import Operation
from harness.operations.case import Case
from harness.ops import operation
from harness.records import Record
from harness.search import Space, explore
from harness.shards import WHOLE
from harness.store import Store, write_run
from harness.strategies import draw_cases
from optimized.candidate import Candidate
from reports.terminal import print_summary

__all__ = ["EXAMPLE", "HELP", "NAME", "add_arguments", "execute"]

NAME = "fuzz"
HELP = "Draw cases of an operation, or search for hard ones, and judge its candidates; failures are shrunk and printed."
EXAMPLE = "attest fuzz --op attention --candidate triton-attention-bf16 --cases 50"

_BATCH = 100
"""Cases drawn at once when only the time is limited."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("--op", required=True, help="operation, see attest list")
    add_candidates(parser)
    parser.add_argument("--cases", type=positive, default=None, help="number of cases (default 100)")
    parser.add_argument("--minutes", type=minutes, default=None, help="stop after so many minutes")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (default 0)")
    parser.add_argument("--regime", action="append", help="only this value regime; may be repeated")
    parser.add_argument("--largest", type=positive, default=100, help="largest number of tokens (default 100)")
    parser.add_argument(
        "--search", action="store_true", help="search for hard cases; with --minutes alone half of the time does"
    )
    parser.add_argument(
        "--corpus", type=Path, metavar="FILE", help=f"hard cases (a run's {CORPUS}) to search from and to add to"
    )
    parser.add_argument("--json", action="store_true", help="print records as JSON lines")
    add_shard(parser)
    add_engine(parser)
    add_device(parser)
    add_relations(parser)
    add_out(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    row = operation(arguments.op)
    check_regimes(row, arguments.regime)
    settings = settings_of(arguments)
    _, candidates = chosen(arguments, row.name)
    known = read_corpus(arguments.corpus) if arguments.corpus else []
    campaign = _Campaign(arguments, row, candidates, Hardest(known))
    engine = engine_of(arguments)
    folder = new_folder(arguments.out)
    console = output_console(stderr=arguments.json)
    with Store(folder) as store, engine(settings, campaign.jobs) as pool:
        write_run(folder, campaign.asked())
        try:
            records = collect(
                campaign.records(pool),
                store,
                total=campaign.total(),
                label=f"fuzz {row.name}",
                deadline=campaign.end,
                show=_print_json if arguments.json else None,
            )
            campaign.write(folder)
            report_failures(records, pool, store, console, plugin=arguments.plugin, shard=campaign.shard)
        except KeyboardInterrupt:
            pool.kill()
            campaign.write(folder)
            interrupted(folder, f"attest report {folder} (what there is), or the same command for all of it")
            return 130
    print_summary(records, console)
    campaign.say(console)
    console.print(f"records: {folder}", markup=False, soft_wrap=True)
    return exit_code(records)


class _Campaign:
    """Which cases are judged: drawn ones, then those that a search comes to.

    Args:
        arguments: of the command line.
        row: the operation.
        candidates: who is judged.
        hardest: hard cases that are known already; those of this campaign join them.
    """

    def __init__(
        self, arguments: argparse.Namespace, row: Operation, candidates: Sequence[Candidate], hardest: Hardest
    ) -> None:  # fmt: skip
        self._arguments, self._row, self._candidates = arguments, row, candidates
        self._dtypes = list(dict.fromkeys(item.recipe.storage for item in candidates))
        self._hardest = hardest
        # Only the time is limited: half of it draws, and what was hard there is where the other half starts.
        self._halves = arguments.minutes is not None and arguments.cases is None and not arguments.search
        self._count = arguments.cases or (None if arguments.minutes else 100)
        self._cases: dict[str, set[str]] = {"drawn": set(), "searched": set()}
        self.jobs = jobs_of(arguments)
        self.shard = shard_of(arguments)
        if self.shard != WHOLE and (self._halves or self._searches()):
            raise UsageError("--shard: got it with a search, expected it with drawn cases, which --cases N gives")
        self.end = Deadline(arguments.minutes)
        self._half = Deadline(arguments.minutes / 2 if self._halves else arguments.minutes)

    def asked(self) -> dict[str, object]:
        """Returns what ``run.json`` says."""
        return {
            "command": NAME, "seed": self._arguments.seed, "op": self._row.name, "cases": self._count,
            "search": "half" if self._halves else self._searches(), "shard": self._arguments.shard,
            "regimes": self._arguments.regime, "largest": self._arguments.largest,
            "candidates": self._arguments.candidate, "plugin": self._arguments.plugin,
        }  # fmt: skip

    def total(self) -> int | None:
        """Returns the number of records to come; None where only the time is limited."""
        if self._count is None:
            return None
        if not self._searches():
            return sum(len(item.candidates) for item in self._drawn())
        return sum((space.cases or 0) * len(self._names(space.dtype)) for space in self._spaces())

    def records(self, pool: Lanes) -> Iterator[Record]:
        """Yields the records of the campaign."""
        if not self._searches():
            yield from self._kept("drawn", pool.verify(self._drawn()))
        if self._halves or self._searches():
            yield from self._kept("searched", explore(self._spaces(), self._judge(pool)))

    def write(self, folder: Path) -> None:
        """Writes the hardest cases into the folder of the run, and into the corpus that it started from."""
        write_corpus(folder / CORPUS, self._hardest.entries())
        if self._arguments.corpus is not None:
            write_corpus(self._arguments.corpus, self._hardest.entries())

    def say(self, console: Console) -> None:
        """Prints how many cases were drawn, and how many a search came to."""
        drawn, searched = (len(ids) for ids in self._cases.values())
        console.print(f"cases: {drawn:,} drawn, {searched:,} searched", markup=False)

    def _searches(self) -> bool:
        return bool(self._arguments.search or (self._arguments.corpus and not self._halves))

    def _kept(self, how: str, records: Iterator[Record]) -> Iterator[Record]:
        for record in records:
            self._cases[how].add(record.case_id)
            self._hardest.add(hardness(record))
            yield record

    def _drawn(self) -> Iterator[Item]:
        """Yields this shard's cases with their candidates."""
        return self.shard.part(self._all_drawn())

    def _all_drawn(self) -> Iterator[Item]:
        """Yields cases with their candidates; without a number of cases until the time of drawing is over."""
        for batch in [0] if self._count is not None else itertools.count():
            drawn = draw_cases(
                self._row, self._count or _BATCH, seed_value=self._arguments.seed + 1_000_003 * batch,
                dtypes=self._dtypes, regimes=self._arguments.regime, largest=self._arguments.largest,
            )  # fmt: skip
            for item in items_of(drawn, self._candidates):
                if self._count is None and self._half.is_over():
                    return
                yield item

    def _spaces(self) -> list[Space]:
        """Returns a search per dtype; where only the time is limited, as many of them as keep all lanes busy."""
        islands = 1 if self._count is not None else -(-self.jobs // len(self._dtypes))
        regimes = self._arguments.regime
        spaces = []
        for index, dtype in enumerate(self._dtypes * islands):
            share = None if self._count is None else (self._count + len(self._dtypes) - 1 - index) // len(self._dtypes)
            known = [
                case for case in self._hardest.cases(self._row.name, dtype) if case.regime in (regimes or [case.regime])
            ]
            start = tuple(known[index // len(self._dtypes) :: islands])
            spaces.append(
                Space(
                    row=self._row, dtype=dtype, seed=self._arguments.seed + 1_000_003 * index, cases=share,
                    regimes=regimes, largest=self._arguments.largest, start=start,
                )
            )  # fmt: skip
        return [space for space in spaces if space.cases != 0]

    def _names(self, dtype: str) -> tuple[str, ...]:
        return tuple(item.name for item in self._candidates if item.recipe.storage == dtype)

    def _judge(self, pool: Lanes) -> Callable[[Case], Sequence[Record]]:
        return lambda case: list(pool.verify([Item(case, self._names(case.dtype))]))


def check_regimes(row: Operation, regimes: list[str] | None) -> None:
    """Refuses a regime that the operation does not have.

    Raises:
        UsageError: names the nearest regime.
    """
    for regime in regimes or ():
        known = row.case.regimes
        if regime not in known:
            raise UsageError(f"--regime: got {regime!r}, expected one of {', '.join(known)}{nearest(regime, known)}")


def _print_json(record: Record) -> None:
    sys.stdout.write(json.dumps(to_json(record), allow_nan=False) + "\n")
    sys.stdout.flush()
