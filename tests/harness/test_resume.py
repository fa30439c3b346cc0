"""A campaign that is interrupted leaves what it has, says how to go on, and goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.store import RECORDS, read_records

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 600.0

# A profile of a few cases under the real command, so that a test can wait for all of it.
TINY = """
import signal
import harness.cli.run as run
import harness.profiles as profiles
from harness.cli.main import main
from harness.candidates import Found
from optimized.catalogue import CANDIDATES

run.profile = lambda name: profiles.Profile(cases={"rms_norm": 60}, default_cases=3, default_largest=9, certify=False)
run.find_candidates = lambda: Found({item.name: item for item in CANDIDATES if item.name == "torch-rms-norm-fp32"})
run.write_report = lambda folder: folder

if __name__ == "__main__":
    # Shells let jobs in the background ignore Ctrl-C, and children inherit that; the test must not depend on it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    raise SystemExit(main())
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.py"
    path.write_text(TINY, encoding="utf-8")
    return path


def start(script: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(script), "run", "--jobs", "1", *arguments],
        env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def wait_for_records(path: Path, count: int, process: subprocess.Popen[str]) -> None:
    ends = time.monotonic() + LIMIT_S
    while time.monotonic() < ends and process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.02)
    process.kill()
    pytest.fail(f"no {count} records within {LIMIT_S:g} s: {process.communicate()}")


def test_an_interrupted_run_is_resumed(script: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = start(script, "--out", str(out))
    wait_for_records(out / RECORDS, 2, first)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=LIMIT_S)
    assert first.returncode == 130
    assert f"attest run --resume {out}" in said
    kept = list(read_records(out))
    assert 2 <= len(kept) < 20

    # Its end is torn off, as a kill in the middle of a write would.
    whole = (out / RECORDS).read_bytes()
    (out / RECORDS).write_bytes(whole[:-30])
    second = start(script, "--resume", str(out))
    _, said = second.communicate(timeout=LIMIT_S)
    assert (second.returncode, "Traceback" in said) == (0, False), said
    with pytest.warns(UserWarning, match="left out"):
        ids = [record.case_id for record in read_records(out)]
    assert len(ids) == len(set(ids)) == 20
    assert ids[: len(kept) - 1] == [record.case_id for record in kept[:-1]]
