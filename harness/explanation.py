"""What there is to say of a record, in lines of plain text, and the command that makes it again."""

import json
import shlex

from harness.codec import to_json
from harness.records import Judgement, Record

__all__ = ["explanation", "reproduction"]


def reproduction(record: Record, *, plugin: str | None = None) -> str:
    """Returns the one-line command that runs a record's case again."""
    line = json.dumps(to_json(record.case), separators=(",", ":"))
    extra = f" --plugin {shlex.quote(plugin)}" if plugin else ""
    extra += f" --relations {shlex.quote(','.join(record.broken))}" if record.broken else ""
    return f"attest replay {shlex.quote(line)} --candidate {shlex.quote(record.candidate)}{extra}"


def explanation(record: Record) -> list[str]:
    """Returns a record in lines: its reason, then a row per output and gradient, relations, what was not checked."""
    lines = [f"  {record.reason}"] if record.reason else []
    for item in record.judgements:
        lines += _of_tensor(item)
    lines += [f"  relation {item.name}: {item.verdict.value} {item.reason}".rstrip() for item in record.relations]
    if record.unchecked:
        lines.append(f"  not checked, since the candidate does not give it: {', '.join(record.unchecked)}")
    lines += [
        f"  again with seed {retest['seed']}: {retest['verdict']} {retest['reason']}".rstrip()
        for retest in record.retests
    ]
    return lines


def _of_tensor(item: Judgement) -> list[str]:
    """Returns what there is to say of a tensor: its worst element, then its tests over all elements."""
    lines = [f"  {item.output}: {item.verdict.value}"]
    if item.bound is not None:
        place = ", ".join(f"{axis}={index}" for axis, index in item.worst_index.items())
        lines.append(
            f"    worst element [{place}]: got {_number(item.actual, 9)}, expected {_number(item.expected, 9)}, "
            f"bound {_number(item.bound)}, ratio {_number(item.max_ratio)}"
        )
    lines += [
        f"    {each.name}: {each.value:+.3g}, largest legal {each.limit:.3g}, standard error {each.error:.2g}"
        for each in item.aggregates
    ]
    if item.rms_ratio is not None:
        lines.append(f"    rms error in units of the recipe's own: {_number(item.rms_ratio)}")
    return lines


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}g}"
