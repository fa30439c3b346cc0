import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.codec import decode_number, from_json, to_json
from harness.errors import UsageError
from harness.records import (
    SCHEMA_VERSION,
    Aggregate,
    Comparison,
    Judgement,
    Phases,
    Record,
    Relation,
    Timing,
    Verdict,
    worst_verdict,
)

TIMING = Timing(phase="forward", median_us=2.0, low_us=1.0, high_us=3.0, repeats=21, threads=1)


def record(**fields: Any) -> Record:
    """Returns a record that passed, with other values of some fields."""
    plain: dict[str, Any] = {
        "case": {"op": "rms_norm", "seed": 5}, "case_id": "abc", "candidate": "right",
        "recipe": {"storage": "float32"}, "verdict": Verdict.PASS, "environment": {"device": "cpu"}, "seed": 5,
        "started": "2026-01-01T00:00:00+00:00",
        "judgements": (Judgement(output="out", verdict=Verdict.PASS, max_ratio=0.5),),
    }  # fmt: skip
    return Record(**{**plain, **fields})


def line_of(value: Record) -> str:
    return json.dumps(to_json(value), allow_nan=False)


@pytest.mark.parametrize("verdict", [verdict for verdict in Verdict if verdict is not Verdict.PASS])
def test_a_time_stands_only_beside_a_pass(verdict: Verdict) -> None:
    with pytest.raises(ValueError, match=r"Record\.timings"):
        record(verdict=verdict, reason="why", timings=(TIMING,))


@pytest.mark.parametrize("verdict", [verdict for verdict in Verdict if verdict is not Verdict.PASS])
def test_every_verdict_but_pass_has_a_reason(verdict: Verdict) -> None:
    with pytest.raises(ValueError, match=r"Record\.reason"):
        record(verdict=verdict)


def test_a_pass_has_judged_something() -> None:
    with pytest.raises(ValueError, match=r"Record\.judgements"):
        record(judgements=())


@pytest.mark.parametrize("missing", ["case", "recipe", "environment", "seed", "verdict", "candidate", "started"])
def test_a_record_without_its_circumstances_is_none(missing: str) -> None:
    fields = {name: value for name, value in to_json(record()).items() if name != missing}
    with pytest.raises(UsageError, match="incomplete record"):
        from_json(json.dumps(fields))


def test_a_record_survives_its_json() -> None:
    comparison = Comparison(baseline="reference-fp64", ratio=0.5, low=0.4, high=0.6, verdict="FASTER")
    aggregate = Aggregate(name="gain", value=1e-5, limit=1e-3, error=1e-4)
    whole = record(
        judgements=(Judgement(output="out", verdict=Verdict.PASS, worst_index={"token": 1}, aggregates=(aggregate,)),),
        unchecked=("lse",),
        relations=(Relation(name="future", verdict=Verdict.PASS),),
        timings=(Timing(**{**to_json(TIMING), "comparison": comparison}),),
        phases=Phases(judge_s=0.25),
        retests=({"seed": 9, "verdict": "PASS"},),
    )
    assert from_json(line_of(whole)) == whole


@pytest.mark.parametrize("number", [math.inf, -math.inf], ids=["inf", "minus-inf"])
def test_infinite_numbers_survive(number: float) -> None:
    item = Judgement(output="out", verdict=Verdict.FAIL_NONFINITE, actual=number, max_ratio=number)
    assert from_json(line_of(record(judgements=(item,)))).judgements[0] == item


def test_a_value_that_is_no_number_survives() -> None:
    item = Judgement(output="out", verdict=Verdict.FAIL_NONFINITE, actual=math.nan)
    actual = from_json(line_of(record(judgements=(item,)))).judgements[0].actual
    assert actual is not None
    assert math.isnan(actual)


def test_an_infinite_aggregate_survives() -> None:
    aggregate = Aggregate(name="gain", value=math.inf, limit=-math.inf, error=1.0)
    item = Judgement(output="out", verdict=Verdict.PASS, aggregates=(aggregate,))
    assert from_json(line_of(record(judgements=(item,)))).judgements[0].aggregates == (aggregate,)


def test_an_infinite_time_survives() -> None:
    comparison = Comparison(baseline="b", ratio=math.inf, low=0.0, high=math.inf, verdict="AMBIGUOUS")
    timing = Timing(**{**to_json(TIMING), "high_us": math.inf, "comparison": comparison})
    assert from_json(line_of(record(timings=(timing,)))).timings == (timing,)


@given(st.text(), st.text(), st.dictionaries(st.text(), st.text()))
def test_hostile_text_survives_in_one_line(reason: str, traceback: str, environment: dict[str, str]) -> None:
    value = record(verdict=Verdict.ERROR, reason=f"!{reason}", traceback=traceback, environment=environment)
    line = line_of(value)
    assert len(line.splitlines()) == 1
    assert from_json(line) == value


@pytest.mark.parametrize("schema", [0, SCHEMA_VERSION + 1, "1", None], ids=repr)
def test_another_schema_is_refused_by_name(schema: object) -> None:
    with pytest.raises(UsageError, match=f"schema {schema!r}, expected {SCHEMA_VERSION}"):
        from_json(json.dumps({**to_json(record()), "schema": schema}))


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": "GOOD"},
        {"verdict": None},
        {"case": 5},
        {"case": {}},
        {"judgements": None},
        {"judgements": [3]},
        {"judgements": [{"output": "out"}]},
        {"timings": ["fast"]},
        {"phases": None},
        {"surprise": 1},
    ],
    ids=str,
)
def test_what_is_no_record_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="record: got"):
        from_json(json.dumps({**to_json(record()), **changes}))


@pytest.mark.parametrize("line", ["", "{", "[]", "3", '"text"', "null"], ids=repr)
def test_a_line_that_is_no_object_is_refused(line: str) -> None:
    with pytest.raises(UsageError, match="record: got"):
        from_json(line)


@pytest.mark.parametrize("value", ["1.0", "", True, [1.0], {}], ids=repr)
def test_what_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match="where a number is expected"):
        decode_number(value)


def test_the_gravest_verdict_counts() -> None:
    assert worst_verdict([Verdict.PASS, Verdict.FAIL_NUMERIC, Verdict.AMBIGUOUS]) is Verdict.FAIL_NUMERIC


def test_failures_are_the_verdicts_that_say_so() -> None:
    harmless = {Verdict.PASS, Verdict.NO_POWER, Verdict.UNSUPPORTED, Verdict.AMBIGUOUS}
    assert {verdict for verdict in Verdict if not verdict.is_failure} == harmless


def test_an_error_is_graver_than_any_numeric_failure() -> None:
    numeric = [verdict for verdict in Verdict if verdict.value.startswith("FAIL")]
    assert all(worst_verdict([verdict, Verdict.ERROR]) is Verdict.ERROR for verdict in numeric)
