"""What stands above the tables of the page: heading, explanation, columns, and what is said when there is no row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["HEADINGS", "Column", "Heading"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column; numbers are aligned to the right and sorted as numbers."""

    label: str
    numeric: bool = False


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
    """

    title: str
    caption: str
    columns: Sequence[Column]
    key: Sequence[str]
    file: str
    empty: str


def _columns(*labels: str) -> tuple[Column, ...]:
    """Returns columns; a label that starts with ``#`` is that of a column of numbers."""
    return tuple(Column(label=label.removeprefix("#"), numeric=label.startswith("#")) for label in labels)


_SUBJECT = ("operation", "candidate", "dtype")

HEADINGS: Mapping[str, Heading] = {
    "failures": Heading(
        title="Failures and open verdicts",
        caption="Every case that is neither PASS nor UNSUPPORTED, the gravest first. AMBIGUOUS and NO_POWER do not "
        "fail a run. Open a row for the explanation, the case and the command that runs it again.",
        columns=_columns(*_SUBJECT, "verdict", "output", "#error / tolerance", "reason"),
        key=("candidate", "case_id"),
        file="failures.csv",
        empty="None: every case that could be judged passed.",
    ),
    "errors": Heading(
        title="Errors",
        caption="How far each output and gradient was from the float64 reference, as a multiple of what the "
        "candidate's recipe allows: at most 1 passes. Gain is a relative error of scale over all elements. Caught is "
        "the smallest fault that the median case would have found: a gain, and the error of one element relative to "
        "the rms of the output.",
        columns=_columns(
            *_SUBJECT, "output", "#cases", "verdicts", "#worst ratio", "#median ratio", "#gain, %", "#gain limit, %",
            "#rms ratio", "#gain caught, %", "#element caught", "worst element",
        ),
        key=("op", "candidate", "dtype", "output"),
        file="errors.csv",
        empty="No output was compared.",
    ),
    "pooled": Heading(
        title="Pooled tests",
        caption="What hides below the resolution of a single case: per tensor, the error of scale (gain), the error "
        "along an argument, the spread and the lean of the errors, averaged over all cases that passed. The limit "
        "follows from the false-alarm budget of the whole campaign; above 1 times the limit a kernel fails.",
        columns=_columns(
            *_SUBJECT, "output", "test", "#cases", "verdict", "#value", "#largest legal", "#standard error",
            "#value / limit",
        ),
        key=("op", "candidate", "dtype", "output", "test"),
        file="pooled.csv",
        empty="No test over several cases was possible.",
    ),
    "relations": Heading(
        title="Exact checks",
        caption="Properties that need no tolerance, each with a negative control; NO_POWER says that the control "
        "changed nothing, so that the check could not have failed.",
        columns=_columns("operation", "candidate", "relation", "#cases", "verdicts", "reason"),
        key=("op", "candidate", "relation"),
        file="relations.csv",
        empty="No exact check was made.",
    ),
    "speed": Heading(
        title="Speed",
        caption="Median time of one call with its interval, only of cases that passed. The ratio is candidate over "
        "baseline, measured in pairs: below 1 is faster.",
        columns=_columns(
            *_SUBJECT, "phase", "#median, µs", "#interval, µs", "baseline", "#ratio", "#interval of ratio", "verdict",
            "case",
        ),
        key=("op", "candidate", "dtype", "phase", "case_id", "baseline"),
        file="speed.csv",
        empty="No time was measured.",
    ),
    "coverage": Heading(
        title="Coverage",
        caption="What was tried and what came of it. Judged cases are those in which at least one output was "
        "compared; outputs that a candidate does not provide are not checked.",
        columns=_columns(*_SUBJECT, "#cases", "#judged", "verdicts", "why unsupported", "not checked"),
        key=("op", "candidate", "dtype"),
        file="coverage.csv",
        empty="Nothing was tried.",
    ),
    "costs": Heading(
        title="Cost of judging",
        caption="Where the time of the judged cases went. Worker is the price of a separate process: its round trip "
        "without the candidate's own time.",
        columns=_columns(
            "operation", "candidate", "#cases", "#total, s", "#per case, ms", "#inputs, %", "#reference, %",
            "#budget, %", "#candidate, %", "#worker, %", "#judging, %",
        ),
        key=("op", "candidate"),
        file="costs.csv",
        empty="No case was judged.",
    ),
    "certification": Heading(
        title="Certification of the reference",
        caption="Distance of the float64 reference from its enclosure by ball arithmetic, in units of float64 epsilon "
        "times the condition of the element.",
        columns=_columns(
            "operation", "output", "#cases", "#elements", "#distance", "#limit", "verdict", "#radius of ball", "#bits"
        ),
        key=("op", "output"),
        file="certification.csv",
        empty="This run certified no reference; attest certify does.",
    ),
}  # fmt: skip
