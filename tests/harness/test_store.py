import json
import os
import warnings
from pathlib import Path

import pytest

from harness.codec import to_json
from harness.errors import TestbenchError, UsageError
from harness.records import Certificate
from harness.store import (
    RECORDS,
    RUN,
    Store,
    StoreWarning,
    read_certificates,
    read_records,
    read_run,
    write_certificates,
    write_run,
)
from tests.harness.test_records import record


def torn(folder: Path) -> None:
    """Writes two records and tears the second in its middle, as a killed run does."""
    with Store(folder) as store:
        store.append(record(case_id="first"))
        store.append(record(case_id="second"))
    path = folder / RECORDS
    path.write_bytes(path.read_bytes()[:-40])


def ids(folder: Path) -> list[str]:
    """Returns the ids of the records; torn lines are left out without a word."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StoreWarning)
        return [item.case_id for item in read_records(folder)]


def test_what_was_appended_is_read_in_order(tmp_path: Path) -> None:
    written = [record(case_id=f"{index}") for index in range(3)]
    with Store(tmp_path) as store:
        for item in written:
            store.append(item)
    assert list(read_records(tmp_path)) == written


def test_a_record_is_on_the_disk_before_the_store_is_closed(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.append(record())
        assert list(read_records(tmp_path)) == [record()]


def test_a_second_store_goes_on_where_the_first_ended(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with Store(tmp_path) as store:
            store.append(record(case_id=name))
    assert ids(tmp_path) == ["first", "second"]


def test_a_torn_line_is_left_out_with_a_warning(tmp_path: Path) -> None:
    torn(tmp_path)
    with pytest.warns(StoreWarning, match="line 2 left out"):
        assert [item.case_id for item in read_records(tmp_path)] == ["first"]


def test_an_append_after_a_torn_line_starts_a_new_one(tmp_path: Path) -> None:
    torn(tmp_path)
    with Store(tmp_path) as store:
        store.append(record(case_id="third"))
    assert ids(tmp_path) == ["first", "third"]


def test_bytes_that_are_no_text_cost_their_line_only(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.append(record(case_id="first"))
    with (tmp_path / RECORDS).open("ab") as file:
        file.write(b"\xff\xfe\n\n")
    assert ids(tmp_path) == ["first"]


def test_another_schema_is_refused_with_its_line(tmp_path: Path) -> None:
    line = json.dumps({**to_json(record()), "schema": 99})
    (tmp_path / RECORDS).write_text(f"{line}\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"line 1: record: got schema 99, expected 1"):
        list(read_records(tmp_path))


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected a folder with a records\.jsonl"):
        list(read_records(tmp_path))


def test_a_folder_that_cannot_be_made_is_an_error_of_the_testbench(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TestbenchError, match="cannot be written"):
        Store(tmp_path / "file" / "folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_an_error_of_the_testbench(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(TestbenchError, match="cannot be written"):
        Store(tmp_path)


def test_a_full_disk_is_an_error_of_the_testbench(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / RECORDS).symlink_to(full)
    store = Store(tmp_path)
    with pytest.raises(TestbenchError, match="refused a record"):
        store.append(record())
    store.close()  # what the disk refused was said once


def test_a_run_says_what_was_asked_for(tmp_path: Path) -> None:
    write_run(tmp_path, {"command": "run", "seed": 3})
    assert read_run(tmp_path) == {"command": "run", "seed": 3}


@pytest.mark.parametrize("content", ["", "{", "[]", "3"], ids=["empty", "torn", "list", "number"])
def test_a_run_that_cannot_be_read_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / RUN).write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match="--resume"):
        read_run(tmp_path)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--resume: .* expected the folder of an earlier run"):
        read_run(tmp_path)


def test_certificates_survive(tmp_path: Path) -> None:
    item = Certificate(
        op="rms_norm", output="out", cases=1, elements=2, distance=float("inf"), limit=1.0, radius=1e-30, bits=128
    )
    write_certificates(tmp_path, [item])
    assert read_certificates(tmp_path) == [item]


def test_a_run_without_certificates_has_none(tmp_path: Path) -> None:
    assert read_certificates(tmp_path) == []
