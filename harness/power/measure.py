"""The whole of ``attest power``: plays the faults, plants the doses, adds up."""

import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from harness.environment import snapshot
from harness.power.catalogue import Catalogue, Entry
from harness.power.profile import PowerProfile
from harness.power.resolution import resolution_cases, resolve
from harness.power.runs import Run
from harness.power.score import fault_scores, found_by, regime_shares, rule_scores, shares
from harness.power.scoring import Pool, groups_of, play
from harness.power_results import OURS, PowerResults

__all__ = ["Shown", "measure"]

_Item = TypeVar("_Item")


class Shown(Protocol):
    """Passes results on and shows how far it is."""

    def __call__(self, found: Iterator[_Item], total: int, label: str) -> Iterator[_Item]:
        """Yields what is found."""
        ...


def measure(
    catalogue: Catalogue,
    entries: Sequence[Entry],
    pool: Pool,
    profile: PowerProfile,
    asked: Mapping[str, Any],
    *,
    started: float,
    shown: Shown,
) -> PowerResults:
    """Returns the scores of faults.

    Args:
        catalogue: gives the reasons of what is not seeded and of what survives.
        entries: the faults that are played.
        pool: where they run.
        profile: how much is played.
        asked: what the command was asked for; ``cases`` and ``seed`` count here.
        started: ``time.monotonic()`` of the start.
        shown: shows how far it is.
    """
    groups = groups_of(entries, seed=int(asked["seed"]), largest=profile.largest)
    until = started + 60 * profile.minutes
    healthy = play(groups, pool, cases=int(asked["cases"]), shown=shown, until=until)
    order = {entry.key: place for place, entry in enumerate(entries)}
    met = sorted(itertools.chain.from_iterable(group.met for group in groups), key=lambda each: order[each.entry.key])
    faults = fault_scores(met, catalogue.survivors)
    doses = resolution_cases(profile.doses, {entry.fault.op for entry in entries})
    resolution = resolve(list(shown(pool.doses(doses), len(doses), "planted errors"))) if doses else []
    return PowerResults(
        asked=asked,
        environment=snapshot("cpu", 1),
        faults=faults,
        rules=rule_scores(faults, healthy),
        operations=shares(faults, lambda item: item.op),
        detectors=shares(faults, lambda item: item.detectors[0]),
        regimes=regime_shares(faults),
        phases=shares(faults, lambda item: item.phase),
        found_by=found_by(faults),
        resolution=resolution,
        not_seeded=catalogue.not_seeded,
        alarms=[_alarm(run) for run in healthy if run.caught[OURS]],
        seconds=time.monotonic() - started,
    )


def _alarm(run: Run) -> str:
    case = json.dumps(dict(run.case), separators=(",", ":"))
    return f"{run.subject} {run.verdict}: {run.reason}; attest replay '{case}' --candidate {run.subject}"
