"""The score of the judge as tables: rules, smallest errors that are caught, seeded faults."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from harness.power_results import PowerResults, RuleScore
from reports.text import plain

__all__ = ["power_sentence", "power_tables"]

_RULES = (
    "rule faults faults_caught faults_caught_share runs runs_caught runs_caught_share first_output_share healthy_runs "
    "false_alarms"
)
_RESOLUTION = "op dtype kind dose median_dose cases"
_FAULTS = (
    "key op id name dtype phase outcome cases reached caught cases_needed verdict detector reason what excuse source"
)


def power_tables(results: PowerResults) -> Mapping[str, pd.DataFrame]:
    """Returns the tables ``rules``, ``resolution`` and ``power``; doses are relative errors, shares are of 1."""
    doses = [
        (plain(item.op), plain(item.dtype), plain(item.kind), item.dose, item.median, item.cases)
        for item in results.resolution
    ]
    return {
        "rules": pd.DataFrame([_rule(item) for item in results.rules], columns=_RULES.split()),
        "resolution": pd.DataFrame(doses, columns=_RESOLUTION.split()),
        "power": pd.DataFrame(_faults(results), columns=_FAULTS.split()),
    }


def power_sentence(results: PowerResults) -> str:
    """Returns how many seeded faults were caught and how many healthy runs were failed."""
    caught = sum(item.outcome == "caught" for item in results.faults)
    alarms = f"{len(results.alarms):,} false alarm{'' if len(results.alarms) == 1 else 's'}"
    return f"{caught:,} of {len(results.faults):,} seeded faults are caught, {alarms}"


def _rule(item: RuleScore) -> tuple[Any, ...]:
    first = item.forward[1] / item.forward[0] if item.forward and item.forward[0] else None
    return (
        plain(item.rule), item.faults, item.faults_caught, _share(item.faults_caught, item.faults), item.runs,
        item.caught, _share(item.caught, item.runs), first, item.healthy, item.alarms,
    )  # fmt: skip


def _faults(results: PowerResults) -> Sequence[tuple[Any, ...]]:
    """Returns the faults, those that were missed first."""
    order = {"survivor": 0, "unreached": 1, "caught": 2}
    ordered = sorted(results.faults, key=lambda item: (order[item.outcome], item.key))
    return [
        (
            *(plain(text) for text in (item.key, item.op, item.id, item.name, item.dtype, item.phase, item.outcome)),
            item.cases, item.reached, item.caught, item.cases_needed,
            *(plain(text) for text in (item.verdict, item.detector, item.reason, item.what, item.excuse, item.source)),
        )
        for item in ordered
    ]  # fmt: skip


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
