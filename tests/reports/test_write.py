"""The files of a report."""

import json
import math
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pandas as pd
import pytest

from harness.errors import TestbenchError, UsageError
from harness.records import Verdict
from harness.store import StoreWarning
from reports.write import write_report
from tests.reports.samples import HOSTILE, certificate, failure, record, store, unsupported, write_benchmark

FILES = {
    "index.html",
    "errors.csv",
    "speed.csv",
    "failures.csv",
    "pooled.csv",
    "coverage.csv",
    "unsupported.csv",
    "relations.csv",
    "costs.csv",
    "certification.csv",
    "summary.md",
    "junit.xml",
}


def test_a_report_has_all_its_files_and_names_its_page(tmp_path: Path) -> None:
    page = write_report(store(tmp_path, [record()]))
    assert page == tmp_path / "report" / "index.html"
    assert {path.name for path in page.parent.iterdir()} == FILES


def test_a_folder_without_a_store_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected a folder with a records\.jsonl"):
        write_report(tmp_path)


def test_a_store_without_records_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="without a single record, expected at least one"):
        write_report(store(tmp_path, []))


def test_a_report_that_cannot_be_written_is_an_error_of_the_testbench(tmp_path: Path) -> None:
    (store(tmp_path, [record()]) / "report").write_text("in the way", encoding="utf-8")
    with pytest.raises(TestbenchError, match="cannot be written"):
        write_report(tmp_path)


def test_a_report_is_written_again_over_an_earlier_one(tmp_path: Path) -> None:
    write_report(store(tmp_path, [record()]))
    page = write_report(store(tmp_path, [failure()]))
    assert len(pd.read_csv(page.parent / "failures.csv")) == 1


def test_a_store_without_run_settings_still_has_a_report(tmp_path: Path) -> None:
    (store(tmp_path, [record()]) / "run.json").unlink()
    assert write_report(tmp_path).is_file()


def test_csv_columns_carry_their_units(tmp_path: Path) -> None:
    report = write_report(store(tmp_path, [record()])).parent
    assert {"median_us", "low_us", "high_us"} <= set(pd.read_csv(report / "speed.csv").columns)
    assert {"total_s", "reference_s", "reference_share"} <= set(pd.read_csv(report / "costs.csv").columns)


def test_csv_keeps_a_hostile_name_in_one_cell(tmp_path: Path) -> None:
    report = write_report(store(tmp_path, [record(candidate=HOSTILE), record(candidate='a,"b"\nc')])).parent
    names = pd.read_csv(report / "coverage.csv")["candidate"]
    assert [len(names), r"\x00\x1b[31m\u202e" in names[0], names[1]] == [2, True, r'a,"b"\nc']


def test_certificates_are_read_from_the_store(tmp_path: Path) -> None:
    report = write_report(store(tmp_path, [record()], certificates=[certificate()])).parent
    assert pd.read_csv(report / "certification.csv")["distance"].tolist() == [0.25]


def test_junit_has_a_test_case_per_record_and_fails_as_a_command_would(tmp_path: Path) -> None:
    records = [record(), failure(), record(verdict=Verdict.ERROR), record(verdict=Verdict.AMBIGUOUS), unsupported()]
    suite = ET.parse(write_report(store(tmp_path, records)).parent / "junit.xml").getroot()[0]
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "5", "failures": "1", "errors": "1", "skipped": "2"}
    assert [[child.tag for child in case] for case in suite] == [[], ["failure"], ["error"], ["skipped"], ["skipped"]]


def test_junit_names_operation_and_candidate_and_gives_the_reason(tmp_path: Path) -> None:
    suite = ET.parse(write_report(store(tmp_path, [failure()])).parent / "junit.xml").getroot()[0]
    assert suite[0].get("classname") == "rms_norm.triton-bf16"
    assert suite[0][0].get("message") == "out: an error is larger than its tolerance"
    assert "attest replay" in (suite[0][0].text or "")


def test_junit_with_hostile_text_is_still_xml(tmp_path: Path) -> None:
    bad = record(candidate=HOSTILE, verdict=Verdict.ERROR, reason=HOSTILE, traceback=f"line\n{HOSTILE}\ufffe\ud800")
    suite = ET.parse(write_report(store(tmp_path, [bad])).parent / "junit.xml").getroot()[0]
    assert "</script>" in (suite[0][0].get("message") or "")


def test_summary_has_totals_failures_and_a_row_per_operation(tmp_path: Path) -> None:
    records = [record(), failure(), record(op="rope", candidate="eager")]
    text = (write_report(store(tmp_path, records)).parent / "summary.md").read_text(encoding="utf-8")
    assert text.startswith("# 1 case fails, on 1 of 2 kernels\n")
    assert "Verdicts: 2 PASS, 1 FAIL_NUMERIC." in text
    assert "| rms\\_norm | 1 | 2 | 1 | 1 | 0 | 9.50 |" in text
    assert "- **FAIL_NUMERIC** rms\\_norm / triton-bf16 / bfloat16, 9.50 times the tolerance" in text
    assert "attest replay" in text


def test_summary_escapes_markup(tmp_path: Path) -> None:
    bad = record(candidate="[x](http://evil.example)`<b>", verdict=Verdict.ERROR, reason="<script>`")
    text = (write_report(store(tmp_path, [bad])).parent / "summary.md").read_text(encoding="utf-8")
    prose = [line for line in text.splitlines() if "attest replay" not in line]
    assert not [line for line in prose if "<script>" in line or "[x](" in line]


def test_a_ratio_that_is_not_finite_survives_the_store(tmp_path: Path) -> None:
    report = write_report(store(tmp_path, [failure(max_ratio=math.nan)])).parent
    assert pd.read_csv(report / "errors.csv")["worst_ratio"].tolist() == [math.inf]


def test_a_missing_template_engine_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UsageError, match=r"attest\[report\]"):
        write_report(store(tmp_path, [record()]))


def test_the_lines_of_the_benchmark_join_the_speed_table_with_their_share_of_the_ceiling(tmp_path: Path) -> None:
    write_benchmark(store(tmp_path, [record()]))
    with pytest.warns(StoreWarning, match="line 3 left out"):
        report = write_report(tmp_path).parent
    row = pd.read_csv(report / "speed.csv").iloc[0]
    assert [row[name] for name in ("tokens", "share", "baseline", "verdict")] == [4096, 0.5, "peer", "SLOWER"]
    assert "| triton | forward | 2 | 1.50 | peer |" in (report / "summary.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore::harness.store.StoreWarning")
def test_times_of_a_benchmark_alone_have_a_report(tmp_path: Path) -> None:
    for op in ("attention", "rope"):
        write_benchmark(tmp_path / op)
    report = write_report(tmp_path).parent
    assert len(pd.read_csv(report / "speed.csv")) == 4
    summary = (report / "summary.md").read_text(encoding="utf-8")
    assert summary.startswith("# 4 times of 1 kernel on 2 shapes\n")
    assert "- peer on rope has no time: ERROR ImportError: \\<b\\>no\\</b\\>" in summary
    assert "- device\\_name: NVIDIA H100 80GB HBM3" in summary
    page = (report / "index.html").read_text(encoding="utf-8")
    assert [f'<section id="{name}"' in page for name in ("speed", "plots", "errors", "cases")] == [
        True,
        True,
        False,
        False,
    ]
    assert not (report / "junit.xml").exists()


def test_an_own_kernel_without_a_time_fails_a_benchmark(tmp_path: Path) -> None:
    line = {
        "case": {"op": "rope", "dtype": "bfloat16"},
        "arm": "triton",
        "is_ours": True,
        "phase": "",
        "problem": "wrong",
    }
    (tmp_path / "benchmark.jsonl").write_text(json.dumps(line), encoding="utf-8")
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "0 times of 0 kernels on 0 shapes, 1 of the project&#39;s own has none" in page
    assert 'class="headline bad"' in page


def test_a_report_needs_no_torch(tmp_path: Path) -> None:
    store(tmp_path, [record(), failure()])
    code = (
        "import sys; sys.modules['torch'] = None; from pathlib import Path; from reports.write import write_report; "
        "import reports.terminal; write_report(Path(sys.argv[1])); print(sys.modules['torch'])"
    )
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=root, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout.strip(), run.stderr) == (0, "None", "")
