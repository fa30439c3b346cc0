"""Shards are the whole run, record by record; merging refuses what does not belong together."""

import dataclasses
import json
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.codec import from_json, to_json
from harness.errors import UsageError
from harness.merge import merge
from harness.records import Phases, Record, Verdict
from harness.shards import Shard, missing_shards
from harness.store import RECORDS, Store, read_records, write_certificates, write_run
from tests.reports.samples import certificate, failure, record

ROOT = Path(__file__).resolve().parents[2]


def held(folder: Path) -> dict[tuple[str, str], Record]:
    """Returns the records of a store by case and candidate, without what a clock decides."""
    return {
        (item.case_id, item.candidate): dataclasses.replace(item, started="", phases=Phases(), timings=())
        for item in read_records(folder)
    }


def store(folder: Path, *records: Record, **asked: object) -> Path:
    with Store(folder) as written:
        written.extend(records)
    write_run(folder, {"command": "fuzz", "seed": 0, **asked})
    return folder


@pytest.mark.usefixtures("here")
def test_the_union_of_shards_is_the_whole_run(
    tmp_path: Path, odd_plugin: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fuzz(name: str, *more: str) -> Path:
        out = tmp_path / name
        names = ("--candidate", "right", "--candidate", "one-percent-more")
        command = ["fuzz", "--op", "rms_norm", "--plugin", odd_plugin, *names, "--cases", "5", "--largest", "5"]
        assert main([*command, "--jobs", "1", "--out", str(out), *more]) == 1
        return out

    parts = [fuzz(f"part-{number}", "--shard", f"{number}/2") for number in (1, 2)]
    whole = fuzz("whole")
    assert main(["merge", *map(str, parts), "--out", str(tmp_path / "merged")]) == 1
    shrunk = {from_json(path.read_text(encoding="utf-8")).case_id for path in (whole / "failures").glob("*.json")}
    merged = held(tmp_path / "merged")
    assert len(merged) == 10
    assert merged == {key: item for key, item in held(whole).items() if key in merged or key[0] not in shrunk}
    assert "disagreement" not in capsys.readouterr().out


@pytest.mark.parametrize("of", [1, 2, 3, 7, 11])
def test_every_piece_is_in_exactly_one_shard(of: int) -> None:
    parts = [piece for number in range(1, of + 1) for piece in Shard(number, of).part(range(10))]
    assert sorted(parts) == list(range(10))


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/", "/2", "a/b", "1/2/3", "-1/2", "1.0/2", "²/3"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--shard: got .*, expected i/n"):
        Shard.parse(text)


def test_missing_shards_are_named() -> None:
    assert [str(shard) for shard in missing_shards([Shard(2, 3)])] == ["1/3", "3/3"]


def test_shards_of_different_splits_are_refused() -> None:
    with pytest.raises(UsageError, match="in 2 and 3 parts"):
        missing_shards([Shard(1, 2), Shard(1, 3)])


def test_a_case_of_two_stores_is_kept_once(tmp_path: Path) -> None:
    folders = [store(tmp_path / name, record(case_id="same"), record(case_id=name)) for name in ("a", "b")]
    merged = merge(folders, tmp_path / "out")
    assert (len(merged.records), merged.repeated, merged.disagreements) == (3, 1, [])


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_verdicts_on_a_case_the_gravest_is_kept_and_told(tmp_path: Path, order: tuple[int, int]) -> None:
    items = [record(case_id="same", candidate="c"), dataclasses.replace(failure(), case_id="same", candidate="c")]
    folders = [store(tmp_path / str(index), items[index]) for index in order]
    merged = merge(folders, tmp_path / "out")
    assert [item.verdict for item in merged.records] == [Verdict.FAIL_NUMERIC]
    assert len(merged.disagreements) == 1
    assert "c on case same" in merged.disagreements[0]


def test_runs_of_different_questions_are_refused(tmp_path: Path) -> None:
    folders = [store(tmp_path / str(seed), record(), seed=seed) for seed in (0, 1)]
    with pytest.raises(UsageError, match="with seed 1, expected 0"):
        merge(folders, tmp_path / "out")


def test_records_of_different_commits_are_refused(tmp_path: Path) -> None:
    folders = [
        store(tmp_path / commit, record(case_id=commit, environment={**record().environment, "commit": commit}))
        for commit in ("aaa", "bbb")
    ]
    with pytest.raises(UsageError, match="commits aaa, bbb"):
        merge(folders, tmp_path / "out")


def test_certificates_and_failures_come_along(tmp_path: Path) -> None:
    one, two = store(tmp_path / "one", record(case_id="1")), store(tmp_path / "two", failure())
    write_certificates(one, [certificate()])
    (two / "failures").mkdir()
    (two / "failures" / "x.json").write_text(json.dumps(to_json(failure())), encoding="utf-8")
    merge([one, two], tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        RECORDS, "run.json", "certificates.json", "failures"
    }  # fmt: skip


def test_the_merge_of_a_run_can_be_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = store(tmp_path / "one", record(), command="run", shard="1/2")
    assert main(["merge", str(folder), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "missing: shard 2/2" in printed
    assert f"attest run --resume {tmp_path / 'out'}" in printed
