"""What a campaign survives: kill -9 at any moment, damaged lines, a full disk, lanes that die, memory that runs out."""

import dataclasses
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness.campaign import DEATHS, Lanes
from harness.cases import case_from_data
from harness.cli.main import main
from harness.codec import to_json
from harness.errors import TestbenchError
from harness.execute import Worker
from harness.lane import gpu_of
from harness.records import Phases, Record, Verdict
from harness.resources import share_of_memory
from harness.store import RECORDS, StoreWarning, read_records
from harness.verify import Settings, verify
from tests.harness import dying
from tests.harness.odd_candidates import CANDIDATES
from tests.harness.test_resume import LIMIT_S, ROOT, TINY
from tests.reports.samples import record

KILLS = 20
WRITER = """
import sys
from pathlib import Path
from harness.store import Store, read_records
from tests.reports.samples import record
folder = Path(sys.argv[1])
done = len(list(read_records(folder))) if (folder / "records.jsonl").exists() else 0
with Store(folder) as store:
    print("ready", flush=True)
    for number in range(done, 100_000):
        store.append(record(case_id=str(number)))
"""


def test_kill_9_in_the_middle_of_writing_loses_the_line_in_flight_only(tmp_path: Path) -> None:
    """A process that does nothing but append is killed at 20 random moments, and every time goes on where it was."""
    moments = random.Random(7)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    acknowledged = 0
    for _ in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], env=environment, cwd=ROOT, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(moments.uniform(0.0, 0.05))
        before = (tmp_path / RECORDS).read_bytes().count(b"\n")
        process.send_signal(signal.SIGKILL)
        process.communicate()
        ids = [int(item.case_id) for item in read_all(tmp_path)]
        assert ids == list(range(len(ids)))
        # Lines that end what an earlier kill tore are no records: at most one for every kill.
        assert len(ids) >= max(acknowledged, before - KILLS)
        acknowledged = len(ids)
    assert acknowledged > KILLS


def read_all(folder: Path) -> list[Record]:
    """Returns the records of a store whose last line may be torn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StoreWarning)
        return list(read_records(folder))


def without_clock(items: list[Record]) -> dict[tuple[str, str], Record]:
    return {
        (item.case_id, item.candidate): dataclasses.replace(
            item, started="", phases=Phases(), timings=(), environment={}
        )
        for item in items
    }


def attest_run(script: Path, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(script), "run", "--jobs", "1", *arguments],
        env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


@pytest.mark.slow
def test_a_run_killed_at_20_random_moments_ends_as_if_it_never_was(tmp_path: Path) -> None:
    """The whole command: killed while it starts, draws, judges, or writes, resumed, killed again."""
    script = tmp_path / "tiny.py"
    script.write_text(TINY.replace('"rms_norm": 150', '"rms_norm": 90'), encoding="utf-8")
    whole = attest_run(script, "--out", str(tmp_path / "whole"))
    assert whole.wait(timeout=LIMIT_S) == 0
    out = tmp_path / "killed"
    moments = random.Random(11)
    seen = 0
    for _ in range(KILLS):
        resumed = ("--resume", str(out)) if (out / "run.json").exists() else ("--out", str(out))
        process = attest_run(script, *resumed)
        limit = time.monotonic() + LIMIT_S
        goal = seen + moments.choice((0, 0, 1, 2, 5, 9))
        while time.monotonic() < limit and process.poll() is None and count(out) < goal:
            time.sleep(0.005)
        time.sleep(moments.uniform(0.0, 0.3))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        now = count(out)
        assert now >= seen, "a record was lost"
        seen = now
    last = attest_run(script, "--resume", str(out))
    assert last.wait(timeout=LIMIT_S) == 0
    assert without_clock(read_all(out)) == without_clock(read_all(tmp_path / "whole"))


def count(folder: Path) -> int:
    return len(read_all(folder)) if (folder / RECORDS).exists() else 0


# -- damaged lines ---------------------------------------------------------------------------------------------------


def damaged() -> Iterator[tuple[str, str]]:
    """Yields what a disk, a kill or a careless editor makes of a line."""
    line = json.dumps(to_json(record(case_id="lost")))
    data = json.loads(line)
    yield "torn", line[: len(line) // 2]
    yield "zeros", "\x00" * 100
    yield "no-schema", json.dumps({key: item for key, item in data.items() if key != "schema"})
    yield "schema-in-text", json.dumps({"schema": 1, "reason": "of another schema"})
    yield "two-in-one", line + line
    yield "deep", "[" * 100_000
    for name, value in {
        "judgements": 5, "environment": [], "case": {"op": None}, "verdict": "PAS", "seed": "7", "phases": "x",
        "relations": ["x"], "candidate": None, "recipe": 1, "reason": {},
    }.items():  # fmt: skip
        yield name, json.dumps({**data, name: value})


DAMAGED = dict(damaged())


@pytest.mark.parametrize("line", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_line_is_left_out_by_name_and_the_rest_is_read(tmp_path: Path, line: str) -> None:
    lines = [json.dumps(to_json(record(case_id=name))) for name in ("first", "last")]
    (tmp_path / RECORDS).write_text(f"{lines[0]}\n{line}\n{lines[1]}\n", encoding="utf-8")
    with pytest.warns(StoreWarning, match=r"records\.jsonl line 2 left out: record: got"):
        assert [item.case_id for item in read_records(tmp_path)] == ["first", "last"]


# -- no space --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("here")
def test_a_full_disk_is_a_sentence_and_exit_code_3(
    tmp_path: Path, odd_plugin: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / RECORDS).symlink_to("/dev/full")
    command = ["fuzz", "--op", "rms_norm", "--plugin", odd_plugin, "--candidate", "right", "--cases", "1"]
    assert main([*command, "--largest", "2", "--jobs", "1", "--out", str(tmp_path)]) == 3
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("attest:")]
    assert said == [f"attest: store: {tmp_path} refused a record (No space left on device); those before it are kept"]


@pytest.mark.parametrize("number", [28, 122, 27], ids=["no-space", "quota", "too-large"])
def test_no_space_anywhere_is_a_sentence_and_exit_code_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def full(_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "somewhere/index.html")

    monkeypatch.setattr("harness.cli.report.write_report", full)
    assert main(["report", "nowhere"]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"attest: somewhere/index.html: {os.strerror(number)}; what was written before is kept")


# -- lanes and workers -----------------------------------------------------------------------------------------------


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lanes]:
    """Gives one lane without candidates, which starts at once."""
    spawn = multiprocessing.get_context("spawn")
    monkeypatch.setattr(Lanes, "_started", lambda _: ProcessPoolExecutor(max_workers=1, mp_context=spawn))
    made = Lanes(Settings(), 1)
    yield made
    made.kill()


def test_a_lane_that_dies_is_replaced_and_its_case_is_done_again(pool: Lanes, tmp_path: Path) -> None:
    arguments = [(str(tmp_path / name),) for name in ("a", "b", "c")]
    assert sorted(pool._each(dying.once, arguments)) == sorted(each[0] for each in arguments)


def test_a_case_that_ends_every_lane_ends_the_campaign_with_a_sentence(pool: Lanes) -> None:
    with pytest.raises(TestbenchError, match=f"lanes died {DEATHS + 1} times; the records so far are kept"):
        list(pool._each(dying.always, [("x",)]))


def test_a_candidate_that_takes_all_memory_is_an_error_and_the_next_one_runs(worker: Worker, odd_plugin: str) -> None:
    """The limit is the worker's, so that the machine and the campaign do not notice."""
    case = case_from_data({"op": "rms_norm", "batch": 1, "tokens": 3, "channels": 8})
    by_name = {item.name: item for item in CANDIDATES}
    chosen = [by_name["takes-all-memory"], by_name["right"]]
    records = verify(case, chosen, worker, Settings(plugin=odd_plugin))
    assert [item.verdict for item in records] == [Verdict.ERROR, Verdict.PASS]
    assert "memory" in records[0].reason.lower()


def test_a_lane_gets_its_share_of_the_memory() -> None:
    one, three = share_of_memory(1), share_of_memory(3)
    if one is None or three is None:
        pytest.skip("this system does not tell its memory")
    assert one // 2 == three


@pytest.mark.parametrize(
    ("index", "visible", "expected"),
    [(0, "2,5", "2"), (1, "2,5", "5"), (2, "2,5", "2"), (1, "GPU-a, GPU-b", "GPU-b"), (0, "3", "3")],
)
def test_lanes_take_the_gpus_that_they_may_see_in_turn(index: int, visible: str, expected: str) -> None:
    assert gpu_of(index, visible) == expected


@pytest.mark.parametrize(("count", "expected"), [(0, ""), (1, "0"), (4, "3")])
def test_without_a_choice_lanes_take_all_gpus(monkeypatch: pytest.MonkeyPatch, count: int, expected: str) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    assert gpu_of(3, None) == expected


def test_a_gpu_campaign_has_one_lane_per_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from argparse import Namespace

    from harness.cli.options import jobs_of

    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    asked: dict[str, Any] = {"jobs": None, "device": "cuda"}
    assert jobs_of(Namespace(**asked)) == 4
