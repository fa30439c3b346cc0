"""The campaign on a GPU in its cheapest form, on a CPU: after a step that fails or hangs the next one runs."""

import json
import os
import sys
import tarfile
import time
from pathlib import Path

import pytest

from harness.bench.shapes import TIMED
from harness.gpu import __main__ as campaign
from harness.gpu.pack import pack
from harness.gpu.runner import Outcome, read_outcomes, run_step
from harness.gpu.steps import Plan, Step, steps
from tests.harness.gpu.planted import script


def plan(folder: Path, *, is_rehearsal: bool = True) -> Plan:
    return Plan(folder=folder, is_rehearsal=is_rehearsal, jobs=1)


def run(step: Step, folder: Path, *, limit_s: float = 60.0, before: Outcome | None = None) -> Outcome:
    return run_step(step, folder, dict(os.environ), limit_s=limit_s, before=before)


def is_alive(state: Path) -> bool:
    try:
        return state.read_text(encoding="ascii").split()[2] != "Z"
    except OSError:
        return False


def test_steps_after_a_failing_one_run(rehearsed: tuple[Path, int]) -> None:
    codes = {name: outcome.code for name, outcome in read_outcomes(rehearsed[0]).items()}
    assert codes == {"planted": 1, "machine": 0, "smoke": 0, "bench-silu_mul": 0}


def test_a_failing_step_fails_the_campaign(rehearsed: tuple[Path, int]) -> None:
    assert rehearsed[1] == 1


def test_a_failing_step_leaves_its_last_words(rehearsed: tuple[Path, int]) -> None:
    assert "this step is broken" in (rehearsed[0] / "planted.log").read_text(encoding="utf-8")


def test_the_machine_is_described_with_its_ceilings(rehearsed: tuple[Path, int]) -> None:
    found = json.loads((rehearsed[0] / "machine" / "machine.json").read_text(encoding="utf-8"))
    assert found["ceilings"]["copy_gb_s"] > 0 < found["ceilings"]["matmul_tflop_s"]


def test_every_phase_of_a_verified_arm_is_timed(rehearsed: tuple[Path, int]) -> None:
    lines = (rehearsed[0] / "bench-silu_mul" / "benchmark.jsonl").read_text(encoding="utf-8").splitlines()
    ours = [line for line in map(json.loads, lines) if line["arm"] == "torch-silu-mul-bf16"]
    assert [line["verdict"] for line in ours if not line["phase"]] == ["PASS"]  # the check before the times
    timed = {line["phase"] for line in ours if line.get("median_us")}
    assert timed == {"forward", "backward", "forward+backward"}


def test_everything_is_packed(rehearsed: tuple[Path, int]) -> None:
    with tarfile.open(rehearsed[0].with_name("packed") / "campaign.tar.xz") as archive:
        names = set(archive.getnames())
    assert {"campaign/steps.json", "campaign/planted.log", "campaign/machine/machine.json"} <= names


def test_a_large_archive_comes_in_parts_that_join(tmp_path: Path) -> None:
    (tmp_path / "campaign").mkdir()
    (tmp_path / "campaign" / "noise").write_bytes(os.urandom(5000))
    parts = pack(tmp_path / "campaign", tmp_path / "packed", largest=1000)
    whole = tmp_path / "whole.tar.xz"
    whole.write_bytes(b"".join(path.read_bytes() for path in parts))
    with tarfile.open(whole) as archive:
        assert archive.getnames() == ["campaign/noise"]


def test_a_step_that_hangs_is_ended_at_its_limit(tmp_path: Path) -> None:
    outcome = run(script("hangs", "import time; time.sleep(600)"), tmp_path, limit_s=1.0)
    assert (outcome.code, outcome.has_ended, outcome.seconds < 30) == (None, False, True)


def test_what_a_step_started_ends_with_it(tmp_path: Path) -> None:
    child = "import subprocess as s, sys; print(s.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid)"
    run(script("parent", child), tmp_path)
    state = Path(f"/proc/{int((tmp_path / 'parent.log').read_text(encoding='utf-8'))}/stat")
    ends = time.monotonic() + 20
    while is_alive(state) and time.monotonic() < ends:
        time.sleep(0.05)
    assert not is_alive(state)


def test_a_step_goes_on_where_it_left_a_run(tmp_path: Path) -> None:
    (tmp_path / "fuzz").mkdir()
    (tmp_path / "fuzz" / "run.json").write_text("{}", encoding="utf-8")
    run(script("fuzz", "print('anew')", resume="print('on')"), tmp_path, before=Outcome(code=None, seconds=1.0))
    assert (tmp_path / "fuzz.log").read_text(encoding="utf-8") == "on\n"


def test_a_step_that_cannot_go_on_begins_anew_and_keeps_what_it_left(tmp_path: Path) -> None:
    (tmp_path / "smoke").mkdir()
    outcome = run(script("smoke", "print('anew')"), tmp_path, before=Outcome(code=None, seconds=1.0))
    assert ((tmp_path / "smoke.1").is_dir(), outcome.attempts) == (True, 2)


def test_a_step_that_has_ended_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "steps", lambda _: [script("once", "print('ran')")])
    for _ in range(2):
        assert campaign.main(["--out", str(tmp_path / "out"), "--rehearse"]) == 0
    assert (tmp_path / "out" / "once.log").read_text(encoding="utf-8") == "ran\n"


def test_no_step_begins_when_the_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "steps", lambda _: [script("late", "print('ran')")])
    code = campaign.main(["--out", str(tmp_path / "out"), "--minutes", "0.1"])
    assert (code, read_outcomes(tmp_path / "out")) == (1, {})


def test_an_unknown_step_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = campaign.main(["--out", str(tmp_path), "--rehearse", "--steps", "smoek"])
    assert (code, "got 'smoek'" in capsys.readouterr().err) == (2, True)


def test_the_rehearsal_has_the_steps_of_the_campaign(tmp_path: Path) -> None:
    both = [[step.name for step in steps(plan(tmp_path, is_rehearsal=small))] for small in (True, False)]
    assert both[0] == both[1]


def test_every_timed_operation_has_a_step(tmp_path: Path) -> None:
    names = {step.name for step in steps(plan(tmp_path))}
    assert {f"bench-{op}" for op in TIMED} <= names


def test_no_step_takes_longer_than_a_piece_of_nine_minutes(tmp_path: Path) -> None:
    assert max(step.minutes for step in steps(plan(tmp_path, is_rehearsal=False))) <= 9


def test_a_campaign_runs_on_the_gpu_and_a_rehearsal_does_not(tmp_path: Path) -> None:
    words = [
        [word for step in steps(plan(tmp_path, is_rehearsal=small)) for word in step.words] for small in (True, False)
    ]
    assert ["cuda" in each for each in words] == [False, True]


def test_steps_are_python_programs(tmp_path: Path) -> None:
    assert {step.command(again=False)[0] for step in steps(plan(tmp_path))} == {sys.executable}
