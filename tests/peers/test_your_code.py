"""The worked examples of docs/your_code.md, as they are printed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.candidates import load_plugin
from harness.cases import case_from_data
from harness.ops import OPS
from tests.peers.plan import sentence

ROOT = Path(__file__).resolve().parents[2]
CAUSAL = {
    "op": "attention", "batch": 1, "query_tokens": 9, "key_tokens": 9, "key_heads": 2, "group": 2, "head_dim": 8,
    "value_dim": 8, "window_right": 0,
}  # fmt: skip


def printed(folder: Path) -> None:
    """Writes every file that the page prints, each named by its first line."""
    text = (ROOT / "docs" / "your_code.md").read_text(encoding="utf-8")
    for name, source in re.findall(r"```(?:python|toml)\n# (\S+)\n(.*?)```", text, flags=re.DOTALL):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")


def attest(folder: Path, *words: str) -> str:
    paths = os.pathsep.join([str(folder), str(ROOT)])
    finished = subprocess.run(
        [sys.executable, "-m", "harness", *words], cwd=folder, env={**os.environ, "PYTHONPATH": paths},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def replayed(folder: Path, case: dict[str, Any], *words: str) -> str:
    return attest(folder, "replay", json.dumps(case), "--relations", "none", *words)


def test_the_kernel_in_a_file_passes_a_causal_case(tmp_path: Path) -> None:
    printed(tmp_path)
    assert "mine: PASS" in replayed(tmp_path, CAUSAL, "--plugin", "my_attention.py")


def test_the_kernel_in_a_file_declines_what_it_does_not_compute(tmp_path: Path) -> None:
    printed(tmp_path)
    (candidate,) = load_plugin(str(tmp_path / "my_attention.py"))
    windowed = case_from_data({**CAUSAL, "window_left": 2})
    assert sentence(candidate, OPS["attention"], case_from_data(CAUSAL)) is None
    assert "window" in str(sentence(candidate, OPS["attention"], windowed))


@pytest.mark.skipif(sys.platform != "linux", reason="Triton is there for Linux alone")
def test_the_kernel_in_a_package_is_found_by_its_entry_point_and_passes(tmp_path: Path) -> None:
    printed(tmp_path)
    points = re.findall(
        r'\[project.entry-points."attest.candidates"\]\n(.*)', (tmp_path / "pyproject.toml").read_text()
    )
    installed = tmp_path / "my_kernels-1.0.dist-info"  # what pip leaves behind of the package
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: my-kernels\nVersion: 1.0\n", encoding="utf-8")
    (installed / "entry_points.txt").write_text(
        "[attest.candidates]\n" + points[0].replace('"', "") + "\n", encoding="utf-8"
    )
    case = {"op": "silu_mul", "batch": 1, "tokens": 3, "channels": 40}
    assert "my-silu-mul: PASS" in replayed(tmp_path, case, "--candidate", "my-silu-mul")


def test_the_layer_with_its_own_parameter_names_passes(tmp_path: Path) -> None:
    printed(tmp_path)
    case = {
        "op": "low_rank_projection", "dtype": "bfloat16", "batch": 1, "tokens": 3, "in_features": 16, "bottleneck": 4,
        "out_features": 24,
    }  # fmt: skip
    assert "bottleneck-bfloat16: PASS" in replayed(tmp_path, case, "--plugin", "my_layer.py")
