"""What stands above the tables of the page: heading, explanation, columns, and what is said when there is no row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["HEADINGS", "Column", "Heading"]

_KINDS = {
    "": "text", "#": "figure", "%": "percent", "~": "interval", "^": "ratio", "=": "count", "*": "tally",
    "!": "verdict", "<": "sentence",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column.

    Attributes:
        label: what stands above it, with the unit.
        kind: how its cells are shown: ``text``, ``sentence``, ``count`` (whole number), ``figure`` (three digits),
            ``percent`` (a share, shown times 100), ``ratio`` (a figure that fails above 1), ``interval`` (two figures),
            ``verdict``, ``tally`` (``"PASS 12, ERROR 1"``).
    """

    label: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """Heading of one table.

    Attributes:
        title: heading.
        caption: what a row is and how its columns are to be read.
        columns: the columns, in order.
        key: names of the DataFrame columns that identify a row, for its anchor.
        file: the CSV file that holds every row.
        empty: what is said when there is no row.
        folded: whether the page shows it only when it is opened.
    """

    title: str
    caption: str
    columns: Sequence[Column]
    key: Sequence[str]
    file: str
    empty: str
    folded: bool = False


def _columns(*labels: str) -> tuple[Column, ...]:
    """Returns columns; the sign before a label tells its kind (``_KINDS``)."""
    return tuple(
        Column(label=label.lstrip("#%~^=*!<"), kind=_KINDS[label[0] if label[0] in _KINDS else ""]) for label in labels
    )


_SUBJECT = ("operation", "candidate", "dtype")

HEADINGS: Mapping[str, Heading] = {
    "failures": Heading(
        title="Failures and open verdicts",
        caption="Every case that is neither PASS nor UNSUPPORTED, the gravest first. AMBIGUOUS and NO_POWER do not "
        "fail a run. Open a row for the explanation, the case and the command that runs it again.",
        columns=_columns("!verdict", *_SUBJECT, "output", "^error / tolerance", "<reason"),
        key=("candidate", "case_id"),
        file="failures.csv",
        empty="None: every case that could be judged passed.",
    ),
    "errors": Heading(
        title="Errors",
        caption="How far each output and gradient was from the float64 reference, as a multiple of what the "
        "candidate's recipe allows: at most 1 passes. Gain is a relative error of scale over all elements, with its "
        "interval of 99 %. Caught is the smallest fault that the median case would have found: a gain, and the error "
        "of one element relative to the rms of the output.",
        columns=_columns(
            *_SUBJECT, "output", "=cases", "*verdicts", "^worst ratio", "#median ratio", "%gain, %",
            "~interval of gain, %", "%gain limit, %", "#rms ratio", "%gain caught, %", "#element caught",
            "worst element",
        ),
        key=("op", "candidate", "dtype", "output"),
        file="errors.csv",
        empty="No output was compared.",
    ),
    "speed": Heading(
        title="Speed",
        caption="Median time of one call with its interval, only of cases that passed. The ratio is candidate over "
        "baseline, measured in pairs: below 1 is faster. The noise is what the baseline differs by from itself in the "
        "same rounds. The share is that of the ceiling: the shortest time that the "
        "measured bandwidth and matrix rate of the device allow, over the median.",
        columns=_columns(
            *_SUBJECT, "phase", "#median, µs", "~interval, µs", "#ratio", "~interval of ratio", "!verdict", "%noise, %",
            "baseline", "%share of ceiling, %", "<case",
        ),
        key=("op", "candidate", "dtype", "phase", "case_id", "baseline"),
        file="speed.csv",
        empty="No time was measured.",
    ),
    "pooled": Heading(
        title="Tests over the whole campaign",
        caption="What hides below the resolution of a single case: per tensor, the error of scale (gain), the error "
        "along an argument, the spread and the lean of the errors, averaged over all cases that passed. The limit "
        "follows from the false-alarm budget of the whole campaign; above 1 times the limit a kernel fails.",
        columns=_columns(
            *_SUBJECT, "output", "test", "=cases", "!verdict", "#value", "#largest legal", "#standard error",
            "^value / limit",
        ),
        key=("op", "candidate", "dtype", "output", "test"),
        file="pooled.csv",
        empty="No test over several cases was possible.",
        folded=True,
    ),
    "relations": Heading(
        title="Exact checks",
        caption="Properties that need no tolerance, each with a negative control; NO_POWER says that the control "
        "changed nothing, so that the check could not have failed.",
        columns=_columns("operation", "candidate", "relation", "=cases", "*verdicts", "<reason"),
        key=("op", "candidate", "relation"),
        file="relations.csv",
        empty="No exact check was made.",
        folded=True,
    ),
    "coverage": Heading(
        title="Coverage",
        caption="What was tried and what came of it. Judged cases are those in which at least one output was "
        "compared; outputs that a candidate does not provide are not checked.",
        columns=_columns(*_SUBJECT, "=cases", "=judged", "*verdicts", "<not checked"),
        key=("op", "candidate", "dtype"),
        file="coverage.csv",
        empty="Nothing was tried.",
    ),
    "unsupported": Heading(
        title="Unsupported",
        caption="Cases that a candidate declined, with its own sentence why. They fail nothing, and nothing is known "
        "about the candidate there.",
        columns=_columns(*_SUBJECT, "=cases", "<reason"),
        key=("op", "candidate", "dtype", "reason"),
        file="unsupported.csv",
        empty="No case was declined.",
    ),
    "certification": Heading(
        title="Certification of the reference",
        caption="Distance of the float64 reference from its enclosure by ball arithmetic, in units of float64 epsilon "
        "times the condition of the element.",
        columns=_columns(
            "operation", "output", "=cases", "=elements", "#distance", "#limit", "!verdict", "#radius of ball", "=bits"
        ),
        key=("op", "output"),
        file="certification.csv",
        empty="This run certified no reference; attest certify does.",
    ),
    "rules": Heading(
        title="Power: the judge beside other rules",
        caption="Seeded faults that each rule catches, on the same tensors, and healthy runs that it fails. "
        "attest is this project's own judge.",
        columns=_columns(
            "rule", "=faults", "=caught", "%caught, %", "=runs", "%runs caught, %", "%first output alone, %",
            "=healthy runs", "=false alarms",
        ),
        key=("rule",),
        file="rules.csv",
        empty="No faults were seeded; attest power does.",
    ),
    "resolution": Heading(
        title="Power: smallest errors that are caught",
        caption="The smallest relative error that is caught on 95 % of the cases of one shape, and on half of them.",
        columns=_columns("operation", "dtype", "kind", "#on 95 % of cases", "#on half of them", "=cases"),
        key=("op", "dtype", "kind"),
        file="resolution.csv",
        empty="Not measured; attest power without --quick does.",
        folded=True,
    ),
    "power": Heading(
        title="Power: seeded faults",
        caption="Bugs that really happened, each seeded into a right implementation. Reached are the cases on which "
        "the fault shows at all.",
        columns=_columns(
            "operation", "fault", "dtype", "phase", "!outcome", "=reached", "=caught", "=cases needed", "found by",
            "<what is wrong",
        ),
        key=("key",),
        file="power.csv",
        empty="No faults were seeded; attest power does.",
        folded=True,
    ),
    "costs": Heading(
        title="Cost of judging",
        caption="Where the time of the judged cases went. Worker is the price of a separate process: its round trip "
        "without the candidate's own time.",
        columns=_columns(
            "operation", "candidate", "=cases", "#total, s", "#per case, ms", "%inputs, %", "%reference, %",
            "%budget, %", "%candidate, %", "%worker, %", "%judging, %",
        ),
        key=("op", "candidate"),
        file="costs.csv",
        empty="No case was judged.",
        folded=True,
    ),
    "cases": Heading(
        title="All cases",
        caption="One row per case and candidate. The ratio is the largest of its outputs and gradients. Open a row for "
        "the case and the command that runs it again.",
        columns=_columns("!verdict", *_SUBJECT, "^error / tolerance", "output", "=tokens", "regime", "<shape"),
        key=("candidate", "case_id"),
        file="records.jsonl",
        empty="No case was run.",
        folded=True,
    ),
}  # fmt: skip
