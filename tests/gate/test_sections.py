"""What trips the gate of records, speed, machine code and excuses, and what does not; by records made by hand."""

import dataclasses
import datetime as dt
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import main
from harness.errors import UsageError
from harness.records import Comparison, Record, Timing, Verdict
from harness.store import write_run
from reports import gate
from reports.gate import Evidence, read_evidence, trips
from reports.gates.campaign import campaign_section
from reports.gates.codegen import codegen_section, lost_codegen, told_of_codegen
from reports.gates.excuses import Excuse, read_excuses, unexcused
from reports.gates.speed import lost_speed, speed_section, told_of_speed
from tests.reports.samples import failure, judgement, record, store, unsupported

TODAY = dt.date(2026, 6, 1)
ASKED = {"command": "run", "profile": "quick", "seed": 0}


def evidence(records: Sequence[Record], **asked: object) -> Evidence:
    return Evidence(sections={"campaign": campaign_section(records, {**ASKED, **asked})}, records=records)


def many(count: int = 30, **fields: Any) -> list[Record]:
    return [record(case_id=f"case-{number}", **fields) for number in range(count)]


def sentences(now: Sequence[Record], before: Sequence[Record], excuses: Sequence[Excuse] = ()) -> list[str]:
    return [trip.sentence for trip in trips(evidence(now), evidence(before).sections, excuses, today=TODAY)]


def test_the_same_records_trip_nothing() -> None:
    assert sentences(many(), many()) == []


def test_a_verdict_that_got_worse_trips_once_per_candidate_and_verdict() -> None:
    assert sentences([*many(), failure(case_id="x"), failure(case_id="y")], many()) == [
        "rms_norm/triton-bf16: FAIL_NUMERIC on 2 cases, was on 0: out: an error is larger than its tolerance"
    ]


def test_a_lost_candidate_trips() -> None:
    assert sentences(many(), [*many(), *many(3, candidate="other")]) == [
        "rms_norm/other is lost: was judged on 3 cases, is not there"
    ]


def test_a_case_that_is_declined_now_trips_with_the_sentence_of_the_candidate() -> None:
    declined = dataclasses.replace(unsupported(), case_id="case-0")
    assert sentences([declined, *many()[1:]], many()) == [
        "rms_norm/triton-bf16: 1 cases that it took are declined now: head_dim: got 40, expected 64"
    ]


def test_a_gradient_that_is_not_there_any_more_trips() -> None:
    both = [judgement(), judgement(output="grad:x")]
    assert sentences(many(3, unchecked=("grad:x",)), many(3, judgements=both)) == [
        "rms_norm/triton-bf16: grad:x is lost, was judged on 3 cases where it is not any more"
    ]


@pytest.mark.parametrize(
    ("was", "is_now", "trip"), [("float32", "bfloat16", 1), ("bfloat16", "float32", 0), (None, "x", 1)]
)
def test_a_recipe_that_allows_more_trips_and_one_that_allows_less_does_not(
    was: object, is_now: object, trip: int
) -> None:  # fmt: skip
    def with_recipe(accumulator: object) -> list[Record]:
        return [
            dataclasses.replace(item, recipe={"storage": "bfloat16", "accumulator": accumulator}) for item in many(3)
        ]

    found = sentences(with_recipe(is_now), with_recipe(was))
    assert (
        found
        == [f"rms_norm/triton-bf16: its recipe allows other roundings, accumulator was {was!r}, is {is_now!r}"][:trip]
    )


@pytest.mark.parametrize(
    ("field", "words"), [("max_ratio", "errors beside their tolerance grew"), ("smallest_gain", "power is lost")]
)
def test_a_distribution_that_shifted_trips_though_everything_passes(field: str, words: str) -> None:
    def spread(low: float) -> list[Record]:
        values = [low + number / 300 for number in range(30)]
        judged = [judgement(**{field: value}) for value in values]  # type: ignore[arg-type]
        return [record(case_id=str(number), judgements=[item]) for number, item in enumerate(judged)]

    found = sentences(spread(0.5), spread(0.3))
    assert len(found) == 1
    assert words in found[0]
    assert "was median 0.348, is 0.548" in found[0]
    assert sentences(spread(0.3), spread(0.5)) == []


def test_a_few_cases_cannot_show_a_shift() -> None:
    assert sentences(
        many(5, judgements=[judgement(max_ratio=0.9)]), many(5, judgements=[judgement(max_ratio=0.1)])
    ) == []  # fmt: skip


@pytest.mark.parametrize("name", ["profile", "candidates", "shard"])
def test_runs_of_other_questions_are_not_compared(name: str) -> None:
    with pytest.raises(UsageError, match=f"--baseline: got one with {name}"):
        trips(evidence(many(), **{name: "x"}), evidence(many()).sections, today=TODAY)


def test_another_device_is_not_compared() -> None:
    gpu = {"device": "cuda", "device_name": "NVIDIA H100 80GB HBM3"}
    with pytest.raises(UsageError, match="got one of cpu, expected one of nvidia-h100-80gb-hbm3"):
        trips(evidence(many(environment=gpu)), evidence(many()).sections, today=TODAY)


# -- speed -----------------------------------------------------------------------------------------------------------


def timed(
    low: float, ratio: float, high: float, *, baseline: str = "before", threads: int = 1, noise: float | None = None
) -> Mapping[str, Any]:  # fmt: skip
    pair = Comparison(baseline=baseline, ratio=ratio, low=low, high=high, verdict="SAME", noise=noise)
    timing = Timing(
        phase="forward", median_us=1.0, low_us=1.0, high_us=1.0, repeats=9, threads=threads, comparison=pair
    )  # fmt: skip
    return speed_section([record(timings=(timing,))]) or {}


def test_slower_than_both_intervals_explain_trips_with_its_command() -> None:
    found = lost_speed(timed(1.08, 1.10, 1.12), timed(0.99, 1.0, 1.01))
    assert [trip.sentence for trip in found] == [
        "rms_norm/triton-bf16 forward beside before is SLOWER: its ratio was 1 (0.99 to 1.01), is 1.1 (1.08 to 1.12), "
        "+10 % (up to 2 % count as the same)"
    ]
    assert found[0].command == "attest bench --op rms_norm --candidate triton-bf16 --baseline before"


@pytest.mark.parametrize(
    "now", [(0.95, 1.10, 1.30), (1.0, 1.005, 1.01), (0.8, 0.85, 0.9)], ids=["ambiguous", "same", "faster"]
)
def test_what_may_be_as_fast_trips_nothing(now: tuple[float, float, float]) -> None:
    assert lost_speed(timed(*now), timed(0.99, 1.0, 1.01)) == []


def test_what_lies_within_the_noise_of_both_measurements_trips_nothing() -> None:
    def trips_of(noise: float) -> int:
        return len(lost_speed(timed(1.08, 1.10, 1.12, noise=noise), timed(0.99, 1.0, 1.01, noise=noise)))

    assert [trips_of(noise) for noise in (0.01, 0.05)] == [1, 0]


def test_a_ratio_to_the_reference_is_told_and_trips_nothing() -> None:
    now, before = (timed(*ratio, baseline="reference-fp64") for ratio in ((1.4, 1.5, 1.6), (0.9, 1.0, 1.1)))
    assert lost_speed(now, before) == []
    assert "looks SLOWER" in told_of_speed(now, before)[0]


def test_times_of_other_circumstances_are_told_and_not_compared() -> None:
    now, before = timed(2.0, 2.0, 2.0, threads=2), timed(1.0, 1.0, 1.0)
    assert lost_speed(now, before) == []
    assert told_of_speed(now, before)[0].endswith("speed not compared, threads was 1, is 2")


# -- machine code ----------------------------------------------------------------------------------------------------


def examined(
    *, spills: int = 0, products: int = 24, status: str = "ok", registers: int = 128, launches: int = 1,
    tensor_bytes: int = 512, candidate: str = "c",
) -> list[dict[str, Any]]:  # fmt: skip
    code = {
        "stack_bytes": spills, "local_loads": spills, "local_stores": 0, "registers": registers,
        "warp_group_products": products, "tensor_memory_products": 0,
    }  # fmt: skip
    kernel = {
        "kernel": "k", "shared_bytes": 1024, "code": code, "launches": launches, "tensor_bytes": tensor_bytes,
    }  # fmt: skip
    kernels = [kernel] if status == "ok" else []
    return [{"candidate": candidate, "arch": "sm_90", "status": status, "case": {"op": "rope"}, "kernels": kernels}]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spills": 8}, ["c k sm_90 spills more: stack bytes, LDL and STL was 0, is 16"]),
        ({"products": 0}, ["c k sm_90 lost its matrix instructions of warp groups: was 24, is 0"]),
        (
            {"status": "error"},
            [
                "c k sm_90 is gone: was compiled for 1 cases",
                "c failures sm_90 fails to compile on more cases: was 0, is 1",
            ],
        ),
        ({"launches": 2}, ["c k sm_90 is launched more often in a call: was 1, is 2"]),
        ({"tensor_bytes": 640}, ["c k sm_90 is given more bytes: was 512, is 640"]),
        ({"registers": 255}, []),
        ({}, []),
    ],
    ids=["spill", "products", "error", "launches", "bytes", "registers", "nothing"],
)
def test_counts_of_machine_code(changes: dict[str, Any], words: list[str]) -> None:
    before, now = codegen_section(examined()), codegen_section(examined(**changes))
    found = lost_codegen(now, before, examined(**changes))
    assert [trip.sentence for trip in found] == words
    assert all(trip.command.startswith("attest codegen --candidate c --arch sm_90") for trip in found)
    assert bool(told_of_codegen(now, before)) == bool(changes)


def compiled(triton: str = "3.9.0", fla: str | None = "0.6.0", **changes: Any) -> Evidence:
    """Returns what a survey leaves of one candidate of fla's."""
    items = examined(candidate="fla-c", **changes) if fla else []
    compilers = {"made": {"triton": triton, "ptxas sm_90": "13.4"}, "projects": {"fla-core": fla} if fla else {}}
    return Evidence(sections={"codegen": codegen_section(items), "compilers": compilers}, examinations=items)


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (compiled(spills=8), ["fla-c k sm_90 spills more: stack bytes, LDL and STL was 0, is 16"]),
        (
            compiled(triton="3.10.0", spills=8),
            ["codegen is not compared, triton was 3.9.0, is 3.10.0: expected the compilers of the baseline"],
        ),
        (compiled(fla="0.7.0", spills=8), []),
        (compiled(fla=None), []),
    ],
    ids=["spill", "another compiler", "another version of the project", "no project"],
)
def test_code_is_compared_of_pinned_versions(now: Evidence, words: list[str]) -> None:
    before = compiled().sections
    assert [trip.sentence for trip in trips(now, before, today=TODAY)] == words
    is_other = now.sections["compilers"]["projects"] != before["compilers"]["projects"]
    assert any("fla-core: code not compared, it was 0.6.0" in told for told in gate.changes(now, before)) == is_other


# -- excuses ---------------------------------------------------------------------------------------------------------

ENTRY = """
[[failure]]
id = "rope-odd-width"
candidate = "triton-*"
reason = "the compiler miscompiles odd widths"
link = "https://example.org/1"
expires = 2026-12-31
"""


def excuses(tmp_path: Path, text: str = ENTRY) -> list[Excuse]:
    (tmp_path / "known.toml").write_text(text, encoding="utf-8")
    return read_excuses(tmp_path / "known.toml")


def test_a_known_failure_trips_nothing(tmp_path: Path) -> None:
    assert sentences([failure(), *many()], [failure(), *many()], excuses(tmp_path)) == []


def test_an_expired_excuse_trips_and_excuses_nothing(tmp_path: Path) -> None:
    entry = excuses(tmp_path, ENTRY.replace("2026-12-31", "2026-05-31"))
    found = sentences([failure(), *many()], [failure(), *many()], entry)
    assert [sentence.split(":")[0] for sentence in found] == [
        "rms_norm/triton-bf16", "known failure 'rope-odd-width' expired on 2026-05-31",
    ]  # fmt: skip


def test_a_stale_excuse_trips(tmp_path: Path) -> None:
    assert "is stale: none of 30 cases of triton-* fails like that any more" in sentences(
        many(), many(), excuses(tmp_path)
    )[0]  # fmt: skip


def test_an_excuse_of_a_candidate_that_was_not_judged_is_not_stale(tmp_path: Path) -> None:
    assert sentences(many(candidate="a"), many(candidate="a"), excuses(tmp_path)) == []


@pytest.mark.parametrize(
    ("extra", "excused"),
    [('verdict = "FAIL_NUMERIC"', True), ('verdict = "ERROR"', False), ('case = {regime = "normal"}', True),
     ('case = {regime = "massive"}', False), ("case = {nothing = 1}", False)],
)  # fmt: skip
def test_an_excuse_is_for_its_verdict_and_its_cases(tmp_path: Path, extra: str, *, excused: bool) -> None:
    left, _ = unexcused([failure()], excuses(tmp_path, ENTRY + extra), TODAY, None)
    assert [item.verdict for item in left] == ([] if excused else [Verdict.FAIL_NUMERIC])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[", "is not TOML"),
        ("[[failures]]", "did you mean 'failure'?"),
        ("failure = 3", "expected [[failure]]"),
        ("[[failure]]", "got no id, candidate, reason, link, expires"),
        (ENTRY.replace("reason =", "raeson ="), "did you mean 'reason'?"),
        (ENTRY.replace('"https://example.org/1"', '""'), "got no link"),
        (ENTRY.replace("2026-12-31", '"soon"'), "expected a day such as"),
        (ENTRY + 'verdict = "PASS"', "verdict: got 'PASS', expected one of FAIL_RELATION"),
        (ENTRY + "case = 3", "expected a table of case fields"),
        (ENTRY + ENTRY, "has the id 'rope-odd-width' twice"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        excuses(tmp_path, text)
    assert words in str(caught.value)


# -- the command -----------------------------------------------------------------------------------------------------


def test_the_command_writes_a_baseline_per_device_and_compares_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = store(tmp_path / "good", many()), store(tmp_path / "bad", [*many(), failure()])
    for folder in (good, bad):
        write_run(folder, ASKED)
    (tmp_path / "baselines").mkdir()
    baseline = ("--baseline", str(tmp_path / "baselines"))
    assert main(["gate", str(good), *baseline, "--update"]) == 0
    assert set(json.loads((tmp_path / "baselines" / "cpu.json").read_text(encoding="utf-8"))) == {"schema", "campaign"}
    assert main(["gate", str(good), *baseline]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "gate: nothing got worse in campaign"
    assert main(["gate", str(bad), *baseline]) == 1
    said = capsys.readouterr().out
    assert "gate: rms_norm/triton-bf16: FAIL_NUMERIC on 1 cases, was on 0" in said
    assert "  attest replay '{" in said
    assert said.splitlines()[-1] == "gate: 1 got worse"


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a folder of attest run, fuzz, check, bench, power or codegen"):
        read_evidence(tmp_path)


def test_a_baseline_of_other_evidence_is_refused() -> None:
    with pytest.raises(UsageError, match="got one with power, expected campaign"):
        trips(evidence(many()), {"power": {}}, today=TODAY)
