"""How much of the fault catalogue the judge catches, beside a baseline: one line per fault."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.errors import UsageError
from harness.power_results import OURS, FaultScore, PowerResults
from reports.gates.trip import Trip

__all__ = ["lost", "section_of", "told"]


def section_of(results: PowerResults) -> dict[str, Any]:
    """Returns the section ``power`` of a baseline.

    Raises:
        UsageError: the results are of a part of the catalogue only.
    """
    asked = results.asked
    part = [f"--{name} {asked[name]}" for name in ("op", "fault") if asked.get(name)]
    if part:
        raise UsageError(f"gate: got results of 'attest power {' '.join(part)}', expected those of all faults")
    return {
        "profile": asked["profile"],
        "cases": asked["cases"],
        "seed": asked["seed"],
        "faults": {item.key: _line(item) for item in sorted(results.faults, key=lambda item: item.key)},
        "alarms": {item.rule: [item.alarms, item.healthy] for item in results.rules},
    }


def _line(item: FaultScore) -> str:
    """Returns what a baseline says of a fault: ``"caught by element"``, ``"survivor"``, ``"unreached"``."""
    return f"caught by {item.detector}" if item.outcome == "caught" else item.outcome


def lost(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[Trip]:
    """Returns what the section ``power`` of a baseline held and the results do not.

    Args:
        now: the section of the results.
        before: the section of the baseline.

    Raises:
        UsageError: the two were not asked for the same.
    """
    for name in ("profile", "cases", "seed"):
        if now[name] != before[name]:
            raise UsageError(
                f"--baseline: got one with {name} {before[name]!r}, expected {now[name]!r} as in the results"
            )
    return [*_lost_faults(now, before), *_new_alarms(now, before)]


def _lost_faults(now: Mapping[str, Any], before: Mapping[str, Any]) -> Iterator[Trip]:
    for key, was in before["faults"].items():
        fault = key.partition("/")[0]
        is_now = now["faults"].get(key)
        if is_now is None:
            yield Trip(
                sentence=f"{key} is gone: the baseline has it as {was!r}, the catalogue no longer seeds it",
                command=_command(now, f"--fault {fault}"),
            )
        elif was.startswith("caught") and not is_now.startswith("caught"):
            yield Trip(sentence=f"{key} is lost: was {was!r}, is {is_now!r}", command=_command(now, f"--fault {fault}"))


def _new_alarms(now: Mapping[str, Any], before: Mapping[str, Any]) -> Iterator[Trip]:
    for rule, (was, runs) in before["alarms"].items():
        is_now, runs_now = now["alarms"].get(rule, (0, 0))
        if is_now > (was if rule == OURS else _most(was, runs, runs_now)):
            change = f"was {was} of {runs} runs, is {is_now} of {runs_now}"
            yield Trip(sentence=f"{rule} calls more healthy kernels faulty: {change}", command=_command(now, ""))


def _most(was: int, runs: int, runs_now: int) -> float:
    """Returns the most false alarms that a rule of another project may have now.

    Its tolerances meet the last bits of healthy results, which differ between machines, so that a few runs change
    sides: the same share of the runs, and three standard deviations of a count of that size, plus one.
    """
    expected = was * runs_now / runs if runs else 0.0
    return expected + 3 * math.sqrt(expected) + 1


def _command(now: Mapping[str, Any], rest: str) -> str:
    quick = " --quick" if now["profile"] == "quick" else ""
    return f"attest power{quick} --cases {now['cases']} --seed {now['seed']} {rest}".rstrip()


def told(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Returns a sentence for everything that differs between two sections ``power``, good or bad."""
    sentences = []
    for key in dict.fromkeys((*before["faults"], *now["faults"])):
        was, is_now = before["faults"].get(key), now["faults"].get(key)
        if was is None:
            sentences.append(f"{key} is new: {is_now}")
        elif is_now is None:
            sentences.append(f"{key} is gone: was {was}")
        elif was != is_now:
            sentences.append(f"{key}: was {was}, is {is_now}")
    for rule in dict.fromkeys((*before["alarms"], *now["alarms"])):
        was, is_now = before["alarms"].get(rule), now["alarms"].get(rule)
        if was != is_now:
            sentences.append(f"false alarms of {rule}: was {_of(was)}, is {_of(is_now)}")
    return sentences


def _of(counts: Sequence[int] | None) -> str:
    return "not there" if counts is None else f"{counts[0]} of {counts[1]} runs"
