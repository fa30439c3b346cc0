"""Speed beside a baseline: ratios of paired measurements, never bare times.

A record's ratio compares a candidate with another one in the same process, call by call in turns: what slows the
machine slows both. That holds for two kernels of one kind, such as a kernel and what it was before. It does not hold
for a kernel beside the float64 reference, whose ratio moved by half between runs of one tree on a busy machine: that
one is told and trips nothing. Only the same case on the same device with as many threads is compared.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.records import Record
from harness.timing import BASELINE, SAME, verdict_of
from reports.gates.trip import Trip

__all__ = ["lost_speed", "speed_section", "told_of_speed"]


def speed_section(records: Sequence[Record]) -> dict[str, Any] | None:
    """Returns the section ``speed`` of a baseline; None where nothing was timed in pairs."""
    section = dict(_pairs(records))
    return {name: section[name] for name in sorted(section)} or None


def _pairs(records: Sequence[Record]) -> Iterator[tuple[str, dict[str, Any]]]:
    for record in records:
        for timing in record.timings:
            pair = timing.comparison
            if pair is not None and all(map(math.isfinite, (pair.ratio, pair.low, pair.high))) and pair.low > 0:
                yield (
                    f"{record.op}/{record.candidate} {timing.phase} beside {pair.baseline}",
                    {
                        "case": record.case_id,
                        "device": record.environment.get("device_name"),
                        "threads": timing.threads,
                        "ratio": [float(f"{value:.4g}") for value in (pair.low, pair.ratio, pair.high)],
                        "noise": float(f"{pair.noise or 0.0:.4g}"),
                    },
                )


def _compared(now: Mapping[str, Any], before: Mapping[str, Any]) -> Iterator[tuple[str, list[float], list[float], str]]:
    """Yields name, ratio before and ratio now of what can be compared (low, middle, high), and its verdict.

    What the equal arms of either measurement differ by is noise of the comparison as well: a pair that was AMBIGUOUS by
    it stays so.
    """
    for name, was in before.items():
        is_now = now.get(name)
        if is_now is not None and all(was[field] == is_now[field] for field in ("case", "device", "threads")):
            old, new = was["ratio"], is_now["ratio"]
            noise = was.get("noise", 0.0) + is_now.get("noise", 0.0)
            yield name, old, new, verdict_of(math.log(new[0] / old[2]), math.log(new[2] / old[0]), noise)


def lost_speed(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[Trip]:
    """Returns what became slower: beyond both intervals and the noise of both. AMBIGUOUS trips nothing."""
    trips = []
    for name, was, is_now, verdict in _compared(now, before):
        if verdict == "SLOWER" and not name.endswith(f" beside {BASELINE}"):
            subject, _, rest = name.partition(" ")
            op, _, candidate = subject.partition("/")
            baseline = rest.rpartition(" beside ")[2]
            trips.append(
                Trip(
                    sentence=(
                        f"{name} is SLOWER: its ratio was {was[1]:.3g} ({was[0]:.3g} to {was[2]:.3g}), is "
                        f"{is_now[1]:.3g} ({is_now[0]:.3g} to {is_now[2]:.3g}), {_times(is_now[1] / was[1])}"
                    ),
                    command=f"attest bench --op {op} --candidate {candidate} --baseline {baseline}",
                )
            )
    return trips


def told_of_speed(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Returns a sentence for everything that cannot be compared, and for what became faster."""
    sentences = [f"{name}: speed not compared, {_why(now.get(name), was)}" for name, was in before.items()
                 if _why(now.get(name), was)]  # fmt: skip
    for name, was, is_now, verdict in _compared(now, before):
        if verdict == "FASTER" or (verdict == "SLOWER" and name.endswith(f" beside {BASELINE}")):
            change = f"its ratio was {was[1]:.3g}, is {is_now[1]:.3g}, {_times(is_now[1] / was[1])}"
            sentences.append(f"{name} looks {verdict}: {change}")
    return sentences


def _why(is_now: Mapping[str, Any] | None, was: Mapping[str, Any]) -> str:
    if is_now is None:
        return "it was not timed"
    for field in ("case", "device", "threads"):
        if was[field] != is_now[field]:
            return f"{field} was {was[field]}, is {is_now[field]}"
    return ""


def _times(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.3g} % (up to {100 * SAME:.2g} % count as the same)"
