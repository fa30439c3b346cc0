"""Options that several commands share, and what they are turned into."""

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch

from harness.campaign import Item, Lanes, default_jobs, lanes
from harness.candidates import Found, find_candidates, select
from harness.cluster import ray_lanes, require_ray
from harness.errors import UsageError, nearest
from harness.operations.case import Case
from harness.relations.check import CHOICES, RELATIONS
from harness.shards import WHOLE, Shard
from harness.store import has_records
from harness.verify import Settings
from optimized.candidate import Candidate

__all__ = [
    "Deadline",
    "add_candidates",
    "add_device",
    "add_engine",
    "add_out",
    "add_relations",
    "add_shard",
    "chosen",
    "engine_of",
    "items_of",
    "jobs_of",
    "minutes",
    "new_folder",
    "on_device",
    "positive",
    "require_items",
    "settings_of",
    "shard_of",
    "warn_broken",
]


def positive(text: str) -> int:
    """Returns a whole number of at least 1 from the command line."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number of at least 1")
    return value


def minutes(text: str) -> float:
    """Returns a positive number of minutes from the command line."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a positive number of minutes")
    return value


def add_device(parser: argparse.ArgumentParser) -> None:
    """Adds ``--device, --jobs, --limit``."""
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where candidates run (default cpu)")
    parser.add_argument(
        "--jobs", type=positive, default=None, help="lanes in parallel (default: one per core, or per GPU)"
    )
    parser.add_argument(
        "--limit", type=positive, default=120, metavar="S", help="seconds a call may take (default 120)"
    )


def add_candidates(parser: argparse.ArgumentParser) -> None:
    """Adds ``--candidate`` and ``--plugin``."""
    parser.add_argument(
        "--candidate",
        action="append",
        metavar="NAME",
        help="only this candidate, or those of a pattern such as 'triton-*'; may be repeated",
    )
    parser.add_argument("--plugin", metavar="FILE.py[:NAME]", help="candidates of a file instead of the installed ones")


def add_out(parser: argparse.ArgumentParser) -> None:
    """Adds ``--out``."""
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the records (default attest-out/<time>)")


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Adds ``--engine`` and ``--address``."""
    parser.add_argument(
        "--engine", choices=("local", "ray"), default="local",
        help="where lanes run: on this machine, or on a Ray cluster (default local)",
    )  # fmt: skip
    parser.add_argument("--address", metavar="HOST:PORT", help="of the Ray cluster (default: the one that ray finds)")


def engine_of(arguments: argparse.Namespace) -> Callable[[Settings, int], AbstractContextManager[Lanes]]:
    """Returns what gives lanes, here or on a cluster.

    Raises:
        UsageError: Ray is asked for and not installed, or an address is given without it.
    """
    if arguments.engine == "ray":
        require_ray()
        return partial(ray_lanes, address=arguments.address)
    if arguments.address is not None:
        raise UsageError(f"--address: got {arguments.address!r}, expected it beside --engine ray")
    return lanes


def add_shard(parser: argparse.ArgumentParser) -> None:
    """Adds ``--shard``."""
    parser.add_argument(
        "--shard", metavar="i/n", help="only every n-th case, beginning with the i-th; attest merge joins the parts"
    )


def shard_of(arguments: argparse.Namespace) -> Shard:
    """Returns the part that was asked for, all of it by default.

    Raises:
        UsageError: it is none.
    """
    return Shard.parse(arguments.shard) if arguments.shard else WHOLE


def relations(text: str) -> str:
    """Returns which relations are checked, from the command line."""
    unknown = next((name for name in text.split(",") if name not in RELATIONS), None)
    if text not in CHOICES and unknown is not None:
        known = (*CHOICES, *RELATIONS)
        raise argparse.ArgumentTypeError(
            f"got {unknown!r}, expected one of {', '.join(known)}{nearest(unknown, known)}"
        )
    return text


def add_relations(parser: argparse.ArgumentParser) -> None:
    """Adds ``--relations``."""
    parser.add_argument(
        "--relations", type=relations, default="some", metavar="WHICH",
        help="relations between calls: some of them on some cases (default), all, none, or names with commas between",
    )  # fmt: skip


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Returns how cases are run.

    Raises:
        UsageError: ``--device cuda`` on a machine without a GPU.
    """
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device: got 'cuda', expected a machine with a CUDA device that torch can use")
    return Settings(
        device=arguments.device,
        limit_s=float(getattr(arguments, "limit", 120)),
        plugin=getattr(arguments, "plugin", None),
        relations=getattr(arguments, "relations", "some"),
    )


def jobs_of(arguments: argparse.Namespace) -> int:
    """Returns the number of lanes: one per core, or one per GPU, which lanes would have to share otherwise."""
    return arguments.jobs or (torch.cuda.device_count() if arguments.device == "cuda" else default_jobs())


def chosen(arguments: argparse.Namespace, op: str | None) -> tuple[Found, list[Candidate]]:
    """Returns what is installed and the candidates that were asked for and can run on the device."""
    found = find_candidates(arguments.plugin)
    warn_broken(found)
    asked = select(found, op=op, names=arguments.candidate)
    return found, on_device(asked, arguments.device, names=arguments.candidate)


def on_device(asked: Sequence[Candidate], device: str, *, names: Sequence[str] | None) -> list[Candidate]:
    """Returns the candidates that run on the device.

    Raises:
        UsageError: there is none, or one that was asked for by its own name does not.
    """
    candidates = [item for item in asked if device in item.devices]
    others = [item for item in asked if device not in item.devices]
    if not candidates or any(item.name in (names or ()) for item in others):
        told = ", ".join(f"{item.name} ({', '.join(item.devices)})" for item in others)
        raise UsageError(f"--device: got {device!r}, expected one that these run on: {told}")
    return candidates


def warn_broken(found: Found) -> None:
    """Says on stderr which installed plug-ins do not import."""
    for name, trace in found.broken.items():
        sys.stderr.write(f"attest: plug-in {name} does not import: {trace.strip().splitlines()[-1]}\n")


def items_of(cases: Sequence[Case], candidates: Sequence[Candidate]) -> list[Item]:
    """Returns the cases with the candidates of their operation and dtype; cases without any are left out."""
    items = []
    for case in cases:
        names = tuple(item.name for item in candidates if item.op == case.op and item.recipe.storage == case.dtype)
        if names:
            items.append(Item(case, names))
    return items


def require_items(items: Sequence[Item], cases: Sequence[Case]) -> None:
    """Refuses a run in which no candidate would meet a case.

    Raises:
        UsageError: names the dtypes of the cases.
    """
    if not items:
        dtypes = ", ".join(sorted({case.dtype for case in cases}))
        raise UsageError(f"no candidate stores a dtype of these cases ({dtypes}): see attest list")


def new_folder(out: Path | None) -> Path:
    """Returns the folder of a run: the one that was asked for, or a new one named by the time.

    Raises:
        UsageError: the folder holds the records of another run, or is none.
    """
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"--out: got {str(out)!r}, which is a file, expected a new or an empty folder")
    if out is not None and has_records(out):
        raise UsageError(f"--out: {out} holds the records of another run, expected a new or an empty folder")
    return out or Path("attest-out") / datetime.now(UTC).strftime("%Y%m%d-%H%M%S")


class Deadline:
    """The end of ``--minutes``.

    Args:
        minutes: None means never.
    """

    def __init__(self, limit_minutes: float | None) -> None:
        self._end = math.inf if limit_minutes is None else time.monotonic() + 60 * limit_minutes

    def is_over(self) -> bool:
        """Returns whether the time is up."""
        return time.monotonic() >= self._end
