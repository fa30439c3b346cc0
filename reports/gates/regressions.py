"""What a campaign lost beside its baseline: verdicts, coverage, gradients, precision, power.

Cases that both runs judged are compared case by case: what a candidate declines and which gradients it gives follows
from the case alone. Everything else is a two-sample test, and all of them share one budget (``reports.gates.shift``).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import UsageError
from harness.records import Record, Verdict
from reports.gates.campaign import NAMED, subject_of
from reports.gates.shift import apart, larger, more_often, share
from reports.gates.trip import Trip

__all__ = ["lost_in_campaign", "told_of_campaign"]

_DECLINED = tuple(verdict.value for verdict in Verdict if verdict not in {Verdict.PASS, Verdict.AMBIGUOUS})
_PRECISION = ("float64", "float32", "tf32", "float16", "bfloat16")
_SAMPLES = {
    "ratio": "errors beside their tolerance grew",
    "rms": "errors on the whole grew",
    "smallest_gain": "power is lost, the smallest gain that would be caught grew",
}

Show = Callable[[Record], str]
"""Turns a record into the command that shows it."""


@dataclass(frozen=True, slots=True)
class _Finding:
    """A difference and how likely an unchanged tree shows it."""

    probability: float
    sentence: str
    record: Record | None


def lost_in_campaign(
    now: Mapping[str, Any], before: Mapping[str, Any], records: Sequence[Record], show: Show
) -> list[Trip]:
    """Returns what got worse.

    Args:
        now: the section of the results.
        before: the section of the baseline.
        records: of the results.
        show: the command that shows a record.

    Raises:
        UsageError: the runs are of other devices or were asked for different things.
    """
    _refuse_others(now, before)
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(subject_of(record), []).append(record)
    trips: list[Trip] = []
    findings: list[_Finding] = []
    for name, was in before["subjects"].items():
        if name not in now["subjects"]:
            judged = sum(len(ids) for ids in was["cases"].values())
            trips.append(Trip(sentence=f"{name} is lost: was judged on {judged} cases, is not there", command=_LIST))
            continue
        is_now = now["subjects"][name]
        trips += _loosened(name, was["recipe"], is_now["recipe"])
        trips += _lost_cases(name, was["cases"], is_now["cases"], groups[name], show)
        findings += _shares(name, was, is_now, groups[name])
        for output, old in was["outputs"].items():
            if output in is_now["outputs"]:
                findings += _shifts(f"{name} {output}", output, old, is_now["outputs"][output], groups[name])
    limit = share(len(findings))
    for item in findings:
        if item.probability < limit:
            chance = f"an unchanged tree shows this with probability {item.probability:.1g}, allowed {limit:.1g}"
            command = _LIST if item.record is None else show(item.record)
            trips.append(Trip(sentence=f"{item.sentence} ({chance})", command=command))
    return trips


_LIST = "attest list"


def _refuse_others(now: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    if now["device"] != before["device"]:
        raise UsageError(f"--baseline: got one of {before['device']}, expected one of {now['device']} as the results")
    for name in NAMED:
        was, is_now = before["asked"].get(name), now["asked"].get(name)
        if was != is_now:
            raise UsageError(f"--baseline: got one with {name} {was!r}, expected {is_now!r} as in the results")


def _loosened(name: str, was: Mapping[str, Any], is_now: Mapping[str, Any]) -> Iterator[Trip]:
    for field in dict.fromkeys((*was, *is_now)):
        old, new = was.get(field), is_now.get(field)
        if old != new and not _is_tighter(old, new):
            yield Trip(
                sentence=f"{name}: its recipe allows other roundings, {field} was {old!r}, is {new!r}",
                command="attest list --json",
            )


def _is_tighter(old: object, new: object) -> bool:
    if old in _PRECISION and new in _PRECISION:
        return _PRECISION.index(str(new)) < _PRECISION.index(str(old)) and {old, new} != {"float16", "bfloat16"}
    return False


def _lost_cases(
    name: str,
    was: Mapping[str, Sequence[str]],
    is_now: Mapping[str, Sequence[str]],
    records: Sequence[Record],
    show: Show,
) -> Iterator[Trip]:
    """Yields what the very cases of the baseline lost: a candidate that declines them now, tensors that it lacks."""
    by_id = {record.case_id: record for record in records}
    old = {case: what for what, cases in was.items() for case in cases}
    new = {case: what for what, cases in is_now.items() for case in cases}
    declined = [case for case in old if old[case] not in _DECLINED and new.get(case) == Verdict.UNSUPPORTED]
    if declined:
        record = by_id[declined[0]]
        yield Trip(
            sentence=f"{name}: {len(declined)} cases that it took are declined now: {record.reason}",
            command=show(record),
        )
    both = [case for case in old if case in new and old[case] not in _DECLINED and new[case] not in _DECLINED]
    gone: dict[str, list[str]] = {}
    for case in both:
        for output in set(old[case].split()) - set(new[case].split()):
            gone.setdefault(output, []).append(case)
    for output, cases in sorted(gone.items()):
        yield Trip(
            sentence=f"{name}: {output} is lost, was judged on {len(cases)} cases where it is not any more",
            command=show(by_id[cases[0]]),
        )


def _shares(
    name: str, was: Mapping[str, Any], is_now: Mapping[str, Any], records: Sequence[Record]
) -> Iterator[_Finding]:
    """Yields what happens to a larger share of the cases now, other cases or not."""
    old, new = ({what: len(ids) for what, ids in each["cases"].items()} for each in (was, is_now))
    totals = sum(old.values()), sum(new.values())
    for verdict in (Verdict.UNSUPPORTED, Verdict.NO_POWER):
        before, now = old.get(verdict, 0), new.get(verdict, 0)
        yield _Finding(
            more_often((before, totals[0]), (now, totals[1])),
            f"{name}: {verdict} on more cases, was {before} of {totals[0]}, is {now} of {totals[1]}",
            next((record for record in records if record.verdict is verdict), None),
        )
    judged = [sum(number for what, number in each.items() if what not in _DECLINED) for each in (old, new)]
    for output in was["outputs"]:
        lacks = [
            sum(number for what, number in each.items() if what not in _DECLINED and output not in what.split())
            for each in (old, new)
        ]
        yield _Finding(
            more_often((lacks[0], judged[0]), (lacks[1], judged[1])),
            f"{name}: {output} is missing on more cases, was {lacks[0]} of {judged[0]}, is {lacks[1]} of {judged[1]}",
            next((record for record in records if output in record.unchecked), records[0]),
        )


def _shifts(
    name: str, output: str, was: Mapping[str, Any], is_now: Mapping[str, Any], records: Sequence[Record]
) -> Iterator[_Finding]:
    """Yields how the errors of one tensor moved."""
    for what in ("no_power", "ambiguous"):
        yield _Finding(
            more_often((was[what], was["judged"]), (is_now[what], is_now["judged"])),
            f"{name}: {what.upper()} on more cases, was {was[what]} of {was['judged']}, is {is_now[what]} of "
            f"{is_now['judged']}",
            _worst(records, output, "ratio"),
        )
    for what, words in _SAMPLES.items():
        old, new = was[what], is_now[what]
        if old and new:
            medians = f"median {_median(old):.3g}, is {_median(new):.3g}"
            yield _Finding(larger(old, new), f"{name}: {words}, was {medians}", _worst(records, output, what))
    for test in was["pooled"]:
        if test in is_now["pooled"]:
            (old_value, old_error), (new_value, new_error) = was["pooled"][test], is_now["pooled"][test]
            worse = new_value > old_value if test == "spread" else abs(new_value) > abs(old_value)
            probability = apart((old_value, old_error), (new_value, new_error)) if worse else 1.0
            sentence = (
                f"{name}: {test} over all cases moved away from 0, was {old_value:+.3g}, is {new_value:+.3g} "
                f"(standard errors {old_error:.2g} and {new_error:.2g})"
            )
            yield _Finding(probability, sentence, _worst(records, output, test))


def _worst(records: Sequence[Record], output: str, what: str) -> Record | None:
    """Returns the record that shows most of something, of the cases that have it."""

    def size(record: Record) -> float:
        item = next((each for each in record.judgements if each.output == output), None)
        if item is None:
            return -1.0
        fields = {"ratio": item.max_ratio, "rms": item.rms_ratio, "smallest_gain": item.smallest_gain}
        if what in fields:
            return fields[what] or 0.0
        return max(
            (abs(test.value / test.error) for test in item.aggregates if test.name == what and test.error), default=0
        )

    return max(records, key=size, default=None)


def _median(values: Sequence[float]) -> float:
    return (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2


def told_of_campaign(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Returns a sentence for every candidate that is new or gone or whose verdicts or recipe differ, good or bad."""
    sentences = []
    for name in dict.fromkeys((*before["subjects"], *now["subjects"])):
        was, is_now = before["subjects"].get(name), now["subjects"].get(name)
        if was is None:
            sentences.append(f"{name} is new")
        elif is_now is None:
            sentences.append(f"{name} is gone")
        else:
            old, new = _counts(was), _counts(is_now)
            if old != new:
                sentences.append(f"{name}: was {old}, is {new}")
            if was["recipe"] != is_now["recipe"]:
                sentences.append(f"{name}: another recipe")
    return sentences


def _counts(subject: Mapping[str, Any]) -> str:
    counts: dict[str, int] = {}
    for what, ids in subject["cases"].items():
        word = what if what in _DECLINED else "judged"
        counts[word] = counts.get(word, 0) + len(ids)
    return ", ".join(f"{number} {word}" for word, number in counts.items())
