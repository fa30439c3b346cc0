"""From runs to scores: by fault, operation, detector, regime, phase, and rule."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from harness.power.rules import RULES
from harness.power.runs import Run
from harness.power.scoring import FIRST, Met
from harness.power_results import OURS, FaultScore, RuleScore, Share

__all__ = ["fault_scores", "found_by", "regime_shares", "rule_scores", "shares"]

ALL_RULES = (OURS, *RULES)


def fault_scores(met: Iterable[Met], excuses: Mapping[str, str]) -> list[FaultScore]:
    """Returns a row per fault and dtype, in the order of the catalogue.

    Args:
        met: the faults and their runs.
        excuses: by id, why a fault survives, where the catalogue says so.
    """
    return [_fault_score(each, excuses.get(each.entry.fault.id, "")) for each in met]


def _fault_score(met: Met, excuse: str) -> FaultScore:
    fault = met.entry.fault
    reached = met.reached
    caught = [(place, run) for place, (_, run) in enumerate(reached, start=1) if run.caught[OURS]]
    compared = [run for number, run in reached if number < FIRST]
    regimes: dict[str, list[int]] = {}
    for run in compared:
        counts = regimes.setdefault(str(run.case["regime"]), [0, 0])
        counts[0] += 1
        counts[1] += run.caught[OURS]
    place, first = caught[0] if caught else (None, None)
    return FaultScore(
        key=met.entry.key, id=fault.id, name=fault.name, op=fault.op, dtype=met.entry.dtype, phase=fault.phase,
        what=fault.what, source=fault.source, detectors=fault.detectors, cases=len(met.runs), reached=len(reached),
        caught=len(caught), cases_needed=place, verdict=first.verdict if first else "",
        detector=first.detector if first else "", reason=first.reason if first else "",
        case=first.case if first else {}, compared=len(compared),
        rules={rule: sum(run.caught[rule] for run in compared) for rule in ALL_RULES},
        first={rule: sum(run.first[rule] for run in compared) for rule in ALL_RULES},
        regimes=regimes, broken=met.broken, excuse=excuse,
    )  # fmt: skip


def rule_scores(faults: Sequence[FaultScore], healthy: Sequence[Run]) -> list[RuleScore]:
    """Returns attest and the rules of other projects on the same runs.

    Args:
        faults: their scores.
        healthy: runs of healthy twins; those beyond the first cases count as well.
    """
    met = [item for item in faults if item.compared]
    forward = [item for item in met if item.phase == "forward"]
    scores = []
    for rule in ALL_RULES:
        by_dtype: dict[str, list[int]] = {}
        for run in healthy:
            counts = by_dtype.setdefault(str(run.case["dtype"]), [0, 0])
            counts[0] += 1
            counts[1] += run.caught[rule]
        first = (
            len(forward), sum(item.first[rule] > 0 for item in forward),
            sum(item.compared for item in forward), sum(item.first[rule] for item in forward),
        )  # fmt: skip
        scores.append(
            RuleScore(
                rule=rule, runs=sum(item.compared for item in met), caught=sum(item.rules[rule] for item in met),
                faults=len(met), faults_caught=sum(item.rules[rule] > 0 for item in met), forward=first,
                healthy=len(healthy), alarms=sum(run.caught[rule] for run in healthy), alarms_by_dtype=by_dtype,
            )
        )  # fmt: skip
    return scores


def shares(faults: Sequence[FaultScore], part: Callable[[FaultScore], str]) -> list[Share]:
    """Returns how much attest caught of each part; a fault that was not reached counts as not caught.

    Args:
        faults: their scores.
        part: names the part of a fault.
    """
    parts: dict[str, list[FaultScore]] = {}
    for item in faults:
        parts.setdefault(part(item), []).append(item)
    return [
        Share(
            name=name, faults=len(items), faults_caught=sum(item.caught > 0 for item in items),
            runs=sum(item.compared for item in items), runs_caught=sum(item.rules[OURS] for item in items),
        )
        for name, items in parts.items()
    ]  # fmt: skip


def regime_shares(faults: Sequence[FaultScore]) -> list[Share]:
    """Returns how much attest caught in each value regime, of the faults that reach it."""
    found: dict[str, list[Sequence[int]]] = {}
    for item in faults:
        for regime, counts in item.regimes.items():
            found.setdefault(regime, []).append(counts)
    return [
        Share(
            name=regime, faults=len(counts), faults_caught=sum(each[1] > 0 for each in counts),
            runs=sum(each[0] for each in counts), runs_caught=sum(each[1] for each in counts),
        )
        for regime, counts in sorted(found.items())
    ]  # fmt: skip


def found_by(faults: Sequence[FaultScore]) -> dict[str, int]:
    """Returns how many faults each check caught first, the most first."""
    return dict(Counter(item.detector for item in faults if item.detector).most_common())
