"""Golden tables of a few records."""

import math
import shlex
from typing import Any

import pandas as pd
import pytest

from harness.records import Comparison, Phases, Relation, Timing, Verdict
from reports.tables import (
    certification_table,
    cost_table,
    coverage_table,
    error_table,
    failure_table,
    relation_table,
    speed_table,
)
from tests.reports.samples import certificate, failure, judgement, record, unsupported


def only_row(frame: pd.DataFrame) -> dict[str, Any]:
    assert len(frame) == 1
    return {str(name): value for name, value in frame.iloc[0].items()}


def test_error_table_has_a_row_for_every_output_of_every_candidate() -> None:
    records = [
        record(candidate="b", judgements=[judgement(), judgement(output="grad:x")]),
        record(candidate="a"),
        unsupported(),
    ]
    table = error_table(records)
    assert table[["candidate", "output"]].to_numpy().tolist() == [["a", "out"], ["b", "grad:x"], ["b", "out"]]


def test_error_table_names_the_worst_case_and_where_it_is() -> None:
    row = only_row(error_table([record(case_id="first"), failure(case_id="second"), record(case_id="third")]))
    found = {
        name: row[name] for name in ("cases", "verdict", "verdicts", "worst_ratio", "worst_case_id", "worst_where")
    }
    assert found == {
        "cases": 3,
        "verdict": "FAIL_NUMERIC",
        "verdicts": "PASS 2, FAIL_NUMERIC 1",
        "worst_ratio": 9.5,
        "worst_case_id": "second",
        "worst_where": "batch 0, token 3",
    }


def test_error_table_takes_the_median_over_the_cases() -> None:
    judgements = [judgement(max_ratio=ratio) for ratio in (0.25, 0.5, 64.0)]
    assert only_row(error_table([record(judgements=[each]) for each in judgements]))["median_ratio"] == 0.5


def test_error_table_reports_the_gain_that_came_closest_to_its_limit() -> None:
    row = only_row(error_table([record(judgements=[judgement(gain=gain)]) for gain in (1e-4, -1e-3, 5e-4)]))
    assert (row["worst_gain"], row["worst_gain_limit"]) == (-1e-3, 2e-3)


def test_error_table_says_what_the_sharpest_and_the_median_case_would_have_caught() -> None:
    caught = (4e-3, 1e-3, 2e-3, None)
    row = only_row(error_table([record(judgements=[judgement(smallest_gain=gain)]) for gain in caught]))
    assert (row["smallest_gain_caught"], row["median_gain_caught"]) == (1e-3, 2e-3)


def test_a_ratio_that_is_not_a_number_is_worse_than_every_other() -> None:
    row = only_row(error_table([failure(max_ratio=math.nan, case_id="nan"), failure(max_ratio=1e30)]))
    assert (row["worst_ratio"], row["worst_case_id"]) == (math.inf, "nan")


def test_an_output_without_a_ratio_leaves_its_cell_empty() -> None:
    wrong_shape = judgement(verdict=Verdict.FAIL_SHAPE, max_ratio=None)
    row = only_row(error_table([record(verdict=Verdict.FAIL_SHAPE, judgements=[wrong_shape])]))
    assert row["worst_ratio"] is None


def test_speed_table_has_times_and_the_ratio_to_the_baseline() -> None:
    beside = Comparison(baseline="eager", ratio=0.5, low=0.25, high=0.75, verdict="FASTER", noise=0.01)
    timing = Timing(
        phase="forward", median_us=8.0, low_us=7.0, high_us=9.0, repeats=30, threads=1, comparison=beside, floor_us=2.0
    )  # fmt: skip
    assert only_row(speed_table([record(timings=[timing])])) == {
        "op": "rms_norm",
        "candidate": "triton-bf16",
        "dtype": "bfloat16",
        "phase": "forward",
        "shape": "batch 2, tokens 64, regime normal",
        "tokens": 64,
        "median_us": 8.0,
        "low_us": 7.0,
        "high_us": 9.0,
        "repeats": 30,
        "threads": 1,
        "how": "host",
        "floor_us": 2.0,
        "baseline": "eager",
        "ratio": 0.5,
        "ratio_low": 0.25,
        "ratio_high": 0.75,
        "noise": 0.01,
        "verdict": "FASTER",
        "share": 0.25,
        "case_id": "c0ffee",
    }


def test_speed_table_leaves_the_comparison_empty_without_a_baseline() -> None:
    timing = Timing(phase="forward", median_us=8.0, low_us=7.0, high_us=9.0, repeats=30, threads=1)
    row = only_row(speed_table([record(timings=[timing])]))
    assert [row[name] for name in ("baseline", "ratio", "verdict")] == [None, None, None]


def test_failure_table_lists_what_is_neither_pass_nor_unsupported_the_gravest_first() -> None:
    records = [record(), record(verdict=Verdict.AMBIGUOUS), unsupported(), record(verdict=Verdict.ERROR), failure()]
    table = failure_table(records)
    assert table[["verdict", "is_failure"]].to_numpy().tolist() == [
        ["ERROR", True],
        ["FAIL_NUMERIC", True],
        ["AMBIGUOUS", False],
    ]


def test_failure_table_gives_the_worst_element_with_both_values_and_the_tolerance() -> None:
    row = only_row(failure_table([failure()]))
    found = [row[name] for name in ("output", "max_ratio", "where", "actual", "expected", "bound")]
    assert found == ["out", 9.5, "batch 0, token 3", 0.5125, 0.5, 0.025]


def test_the_reproduction_is_a_shell_command_with_the_case_and_the_candidate() -> None:
    row = only_row(failure_table([failure(candidate="it's mine")]))
    assert shlex.split(row["reproduction"]) == ["attest", "replay", row["case"], "--candidate", "it's mine"]


def test_the_reproduction_of_a_broken_relation_asks_for_it() -> None:
    failed = [
        Relation(name=name, verdict=Verdict.FAIL_RELATION, reason="x") for name in ("keys_split", "inputs_unchanged")
    ]
    relations = [Relation(name="run_twice", verdict=Verdict.PASS), *failed]
    row = only_row(failure_table([record(verdict=Verdict.FAIL_RELATION, relations=relations)]))
    assert shlex.split(row["reproduction"])[-2:] == ["--relations", "keys_split"]


def test_coverage_table_counts_every_verdict_and_the_reasons_of_unsupported_cases() -> None:
    records = [record(unchecked=["lse"]), failure(), unsupported(reason="a"), unsupported(reason="a"), unsupported()]
    row = only_row(coverage_table(records))
    counts = {verdict.value: row[verdict.value] for verdict in Verdict if row[verdict.value]}
    assert counts == {"PASS": 1, "UNSUPPORTED": 3, "FAIL_NUMERIC": 1}
    assert (row["cases"], row["judged"], row["verdict"]) == (5, 2, "FAIL_NUMERIC")
    assert row["unsupported_reasons"] == "a (2); head_dim: got 40, expected 64 (1)"
    assert row["unchecked_outputs"] == "lse (1)"


def test_unsupported_is_the_verdict_only_where_nothing_is_supported() -> None:
    records = [record(candidate="some"), unsupported(candidate="some"), unsupported(candidate="none")]
    table = coverage_table(records)
    assert table[["candidate", "verdict"]].to_numpy().tolist() == [["none", "UNSUPPORTED"], ["some", "PASS"]]


def test_relation_table_gives_the_reason_of_the_gravest_verdict() -> None:
    weak = Relation(name="run twice", verdict=Verdict.NO_POWER, reason="the control changed nothing")
    records = [record(relations=[Relation(name="run twice", verdict=Verdict.PASS)]), record(relations=[weak])]
    row = only_row(relation_table(records))
    assert (row["cases"], row["verdicts"], row["reason"]) == (2, "PASS 1, NO_POWER 1", "the control changed nothing")


def test_cost_table_has_the_share_of_every_phase_in_the_judged_cases() -> None:
    spent = Phases(inputs_s=1.0, reference_s=2.0, budget_s=1.0, candidate_s=2.0, worker_s=1.0, judge_s=1.0)
    row = only_row(cost_table([record(phases=spent), record(phases=spent), unsupported()]))
    shares = {name: share for name, share in row.items() if name.endswith("_share")}
    assert (row["cases"], row["total_s"], row["per_case_s"]) == (2, 16.0, 8.0)
    assert shares == {
        "inputs_share": 0.125,
        "reference_share": 0.25,
        "budget_share": 0.125,
        "candidate_share": 0.25,
        "worker_share": 0.125,
        "judge_share": 0.125,
    }


@pytest.mark.parametrize(("distance", "within"), [(0.25, True), (1.5, False), (math.nan, False)])
def test_certification_table_says_whether_the_reference_is_within_its_limit(distance: float, *, within: bool) -> None:
    assert only_row(certification_table([certificate(distance=distance)]))["within_limit"] == within


@pytest.mark.parametrize("table", [error_table, speed_table, failure_table, coverage_table, relation_table, cost_table])
def test_a_table_without_rows_keeps_its_columns(table: Any) -> None:
    assert len(table([])) == 0
    assert table([]).columns[0] == "op"
