"""Finds the catalogue of seeded faults: a plug-in file whose ``FAULTS`` is a tuple of ``Fault``."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from harness.candidates import import_plugin
from harness.errors import UsageError, nearest
from harness.power.fault import Fault
from optimized.candidate import Candidate

__all__ = ["DEFAULT", "Catalogue", "Entry", "entries", "load_catalogue", "select_faults"]

_ROOT = Path(__file__).resolve().parents[2]

DEFAULT = Path("tests") / "faults" / "catalogue.py"
"""The project's own catalogue, below the root of a checkout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """The seeded faults of a file.

    Attributes:
        plugin: path of the file, for workers.
        faults: what is seeded.
        not_seeded: ids of real bugs that are not seeded, and why.
        survivors: ids of faults that are known to survive, and why.
    """

    plugin: str
    faults: tuple[Fault, ...]
    not_seeded: Mapping[str, str] = field(default_factory=dict)
    survivors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A fault in one storage dtype: what is scored.

    Attributes:
        fault: the fault.
        dtype: storage dtype of its cases.
        wrong: the wrong candidate.
        healthy: its healthy twin.
    """

    fault: Fault
    dtype: str
    wrong: Candidate
    healthy: Candidate

    @property
    def key(self) -> str:
        """Names the entry in every file: ``"B032/attention/heads-tiled/bfloat16"``."""
        return f"{self.fault.id}/{self.fault.op}/{self.fault.name}/{self.dtype}"


def load_catalogue(path: Path | None = None) -> Catalogue:
    """Returns the catalogue of a file, or the project's own.

    Raises:
        UsageError: there is no such file, it does not import, or does not hold what it should; no checkout for the
            project's own.
    """
    if path is None:
        path = _ROOT / DEFAULT
        if not path.is_file():
            raise UsageError(
                f"--catalogue: got none, expected a file of faults, as there is no checkout with a {DEFAULT}"
            )
    if not path.is_file():
        raise UsageError(f"--catalogue: got {str(path)!r}, expected the path of a Python file")
    if path.resolve().is_relative_to(_ROOT) and str(_ROOT) not in sys.path:
        sys.path.append(str(_ROOT))  # an installed attest does not know of the checkout's tests
    module = import_plugin(path, option="--catalogue")
    faults = getattr(module, "FAULTS", None)
    if not isinstance(faults, tuple) or not faults or not all(isinstance(item, Fault) for item in faults):
        raise UsageError(f"--catalogue: {path} has no FAULTS, expected a tuple of Fault of that name")
    catalogue = Catalogue(
        plugin=str(path), faults=faults, not_seeded=getattr(module, "NOT_SEEDED", {}),
        survivors=getattr(module, "SURVIVORS", {}),
    )  # fmt: skip
    _check(module, catalogue)
    return catalogue


def _check(module: ModuleType, catalogue: Catalogue) -> None:
    """Refuses faults of one name, and a fault whose candidates a worker would not find."""
    offered = {item.name for item in getattr(module, "CANDIDATES", ())}
    seen: set[str] = set()
    for entry in entries(catalogue.faults):
        if entry.key in seen:
            raise UsageError(f"--catalogue: {catalogue.plugin} has {entry.key} twice, expected one")
        seen.add(entry.key)
        missing = {entry.wrong.name, entry.healthy.name} - offered
        if missing:
            names = ", ".join(sorted(missing))
            raise UsageError(
                f"--catalogue: {catalogue.plugin} has no {names} in its CANDIDATES, expected both of {entry.key}"
            )


def entries(faults: Sequence[Fault]) -> list[Entry]:
    """Returns every fault in every storage dtype in which it is seeded."""
    return [
        Entry(fault=fault, dtype=dtype, wrong=wrong, healthy=healthy)
        for fault in faults
        for dtype, (wrong, healthy) in fault.pairs.items()
    ]


def select_faults(catalogue: Catalogue, *, op: str | None, fault: str | None) -> tuple[Fault, ...]:
    """Returns the faults of an operation, or those of an id or a name.

    Raises:
        UsageError: nothing is left; names the nearest known.
    """
    chosen = catalogue.faults
    if op is not None:
        ops = sorted({item.op for item in chosen})
        chosen = tuple(item for item in chosen if item.op == op)
        if not chosen:
            raise UsageError(f"--op: got {op!r}, expected one with seeded faults: {', '.join(ops)}{nearest(op, ops)}")
    if fault is not None:
        known = sorted({name for item in chosen for name in (item.id, item.name)})
        chosen = tuple(item for item in chosen if fault in (item.id, item.name))
        if not chosen:
            ids = ", ".join(sorted({item.id for item in catalogue.faults}))
            why = catalogue.not_seeded.get(fault)
            told = f"it is not seeded: {why}" if why else f"expected one of {ids}{nearest(fault, known)}"
            raise UsageError(f"--fault: got {fault!r}, {told}")
    return chosen
