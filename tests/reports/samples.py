"""Small records made by hand, and stores of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.codec import to_json
from harness.records import Aggregate, Certificate, Judgement, Phases, Record, Relation, Timing, Verdict
from harness.store import write_certificates, write_run

__all__ = ["HOSTILE", "certificate", "failure", "judgement", "record", "store", "unsupported", "write_benchmark"]

HOSTILE = (
    "</td></script><script>alert('x')</script><img src=http://evil.example onerror=alert(1)>\x00\x1b[31m\u202e$\\frac$&"
)
"""Markup, a script, control characters, a direction override, and mathematics for a plotting library."""


def judgement(
    *,
    output: str = "out",
    verdict: Verdict = Verdict.PASS,
    max_ratio: float | None = 0.5,
    gain: float = 1e-4,
    smallest_gain: float | None = 2e-3,
) -> Judgement:
    """Returns a judgement whose worst element is at batch 0, token 3."""
    return Judgement(
        output=output,
        verdict=verdict,
        reason="" if verdict is Verdict.PASS else "an error is larger than its tolerance",
        max_ratio=max_ratio,
        max_error=0.0125,
        worst_index={"batch": 0, "token": 3},
        actual=0.5125,
        expected=0.5,
        bound=0.025,
        rms_ratio=0.75,
        elements=128,
        aggregates=(Aggregate(name="gain", value=gain, limit=2e-3, error=2e-4),),
        smallest_gain=smallest_gain,
        smallest_element=0.02,
        nearest_ratio=0.25,
    )


def record(
    *,
    op: str = "rms_norm",
    candidate: str = "triton-bf16",
    dtype: str = "bfloat16",
    case_id: str = "c0ffee",
    verdict: Verdict = Verdict.PASS,
    reason: str = "",
    judgements: Sequence[Judgement] | None = None,
    tokens: int = 64,
    timings: Sequence[Timing] = (),
    relations: Sequence[Relation] = (),
    unchecked: Sequence[str] = (),
    traceback: str = "",
    phases: Phases | None = None,
    environment: Mapping[str, Any] | None = None,
) -> Record:
    """Returns a record; without judgements it has one that agrees with its verdict."""
    return Record(
        case={"schema": 1, "op": op, "batch": 2, "tokens": tokens, "dtype": dtype, "regime": "normal", "seed": 7},
        case_id=case_id,
        candidate=candidate,
        recipe={"storage": dtype},
        verdict=verdict,
        environment=environment or {"device": "cpu", "torch": "2.13.0"},
        seed=7,
        started="2026-01-02T03:04:05Z",
        reason=reason or ("" if verdict is Verdict.PASS else "out: an error is larger than its tolerance"),
        judgements=[judgement(verdict=verdict)] if judgements is None else judgements,
        unchecked=unchecked,
        relations=relations,
        timings=timings,
        phases=phases
        or Phases(inputs_s=0.1, reference_s=0.2, budget_s=0.4, candidate_s=0.1, worker_s=0.1, judge_s=0.1),
        traceback=traceback,
    )


def failure(*, max_ratio: float = 9.5, case_id: str = "bad", candidate: str = "triton-bf16") -> Record:
    """Returns a record of a numeric failure with this ratio."""
    judged = judgement(verdict=Verdict.FAIL_NUMERIC, max_ratio=max_ratio, gain=0.5)
    return record(verdict=Verdict.FAIL_NUMERIC, judgements=[judged], case_id=case_id, candidate=candidate)


def unsupported(*, reason: str = "head_dim: got 40, expected 64", candidate: str = "triton-bf16") -> Record:
    """Returns a record of a case that the candidate does not support."""
    return record(verdict=Verdict.UNSUPPORTED, reason=reason, judgements=(), candidate=candidate)


def certificate(*, distance: float = 0.25) -> Certificate:
    """Returns a certificate with the limit 1."""
    return Certificate(
        op="attention", output="out", cases=4, elements=512, distance=distance, limit=1.0, radius=2e-37, bits=128
    )


def store(folder: Path, records: Sequence[Record], *, certificates: Sequence[Certificate] = ()) -> Path:
    """Appends to a store as ``harness.store`` would, without waiting for the disk after every record."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(to_json(each), allow_nan=False) + "\n" for each in records)
    with (folder / "records.jsonl").open("a", encoding="utf-8") as opened:
        opened.writelines(lines)
    write_run(folder, {"profile": "quick", "seed": 7})
    if certificates:
        write_certificates(folder, certificates)
    return folder


def write_benchmark(folder: Path) -> Path:
    """Writes a ``benchmark.jsonl``: two times of an arm, a torn line, an arm without one, the end of a shape."""
    folder.mkdir(parents=True, exist_ok=True)
    case = {"op": "rope", "dtype": "bfloat16", "tokens": 4096}
    environment = {"device": "cuda", "device_name": "NVIDIA H100 80GB HBM3"}
    time = {
        "case": case, "environment": environment, "arm": "triton", "is_ours": True, "phase": "forward", "problem": "",
        "median_us": 8.0, "low_us": 7.0, "high_us": 9.0, "rounds": 15, "floor_us": 4.0, "share": 0.5,
        "against": {"eager": [0.5, 0.4, 0.6, "FASTER"], "peer": [1.5, 1.4, 1.6, "SLOWER"]},
    }  # fmt: skip
    longer = {**time, "case": {**case, "tokens": 8192}, "median_us": 16.0, "low_us": 15.0, "high_us": 17.0}
    none = {"case": case, "environment": environment, "arm": "peer", "is_ours": False, "phase": "", "verdict": "ERROR",
            "problem": "ImportError: <b>no</b>"}  # fmt: skip
    last = {"case": case, "arm": "", "is_ours": False, "phase": "", "verdict": "", "problem": ""}
    lines = [json.dumps(time), json.dumps(longer), "{torn", json.dumps(none), json.dumps(last)]
    (folder / "benchmark.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder
