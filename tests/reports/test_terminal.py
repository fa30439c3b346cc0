"""The summary on a terminal."""

import io
from collections.abc import Sequence

from rich.console import Console

from harness.records import Record
from reports.terminal import print_summary
from tests.reports.samples import failure, record, unsupported


def printed(records: Sequence[Record], *, width: int = 120) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    print_summary(records, console)
    assert isinstance(console.file, io.StringIO)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def test_there_is_a_row_per_operation_and_candidate_and_one_of_totals() -> None:
    records = [record(), failure(), record(op="rope", candidate="eager"), unsupported()]
    assert printed(records) == [
        "operation candidate cases PASS UNSUPPORTED FAIL_NUMERIC worst ratio",
        "rms_norm triton-bf16 3 1 1 1 9.50",
        "rope eager 1 1 \N{EN DASH} \N{EN DASH} 0.500",
        "total 4 2 1 1 9.50",
        "1 case fails, on 1 of 2 kernels.",
    ]


def test_a_good_run_says_how_much_was_judged() -> None:
    assert printed([record(), record(), unsupported()])[-1] == "No failure in 2 judged cases."


def test_markup_in_a_name_is_printed_as_it_is() -> None:
    assert "[red]x[/red]" in printed([record(candidate="[red]x[/red]")])[1]


def test_no_record_is_said_in_words() -> None:
    assert printed([]) == ["No case was run."]
