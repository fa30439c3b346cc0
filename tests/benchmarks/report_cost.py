"""What a report costs: ``python -m tests.benchmarks.report_cost`` prints seconds, peak memory and bytes of the page.

It is `attest report` in a process of its own on a store of 5,000 records that look like those of a campaign.
"""

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness.records import Comparison, Phases, Record, Timing, Verdict
from tests.reports.samples import judgement, record, store

__all__ = ["RECORDS", "main", "many_records"]

RECORDS = 5_000
_OPS = ("attention", "gated_delta_rule", "rms_norm", "rope", "short_conv")
_REGIMES = ("normal", "peaky", "two_valued", "massive", "tiny", "zero_rows")


def many_records(count: int) -> list[Record]:
    """Returns records of 5 operations, 60 candidates and as many distinct cases, 2 % of which fail."""
    return [_made(number) for number in range(count)]


def _made(number: int) -> Record:
    dtype = ("float32", "bfloat16", "float16")[number % 3]
    op = _OPS[number % len(_OPS)]
    verdict = Verdict.FAIL_NUMERIC if number % 50 == 7 else Verdict.UNSUPPORTED if number % 20 == 3 else Verdict.PASS
    ratio = 0.05 + (number * 7919 % 1000) / 1100
    tensors = ("out", "lse", "grad:query", "grad:key", "grad:value")
    judged = [judgement(output=name, max_ratio=ratio / (1 + place)) for place, name in enumerate(tensors)]
    if verdict is Verdict.FAIL_NUMERIC:
        judged[0] = judgement(verdict=verdict, max_ratio=2 + ratio)
    beside = Comparison(baseline="reference-fp64", ratio=0.5, low=0.25, high=0.75, verdict="FASTER")
    timing = Timing(phase="forward", median_us=8.0 + number, low_us=7.0, high_us=9.0 + number, repeats=30, threads=1,
                    comparison=beside)  # fmt: skip
    made = record(
        op=op, candidate=f"candidate-{number % 4}-{op}-{dtype}", dtype=dtype, case_id=f"{number:012x}", verdict=verdict,
        reason=f"head_dim: got {number % 7}, expected 64" if verdict is Verdict.UNSUPPORTED else "",
        judgements=() if verdict is Verdict.UNSUPPORTED else judged,
        timings=[timing] if verdict is Verdict.PASS and number % 40 == 0 else (), phases=Phases(judge_s=0.1),
    )  # fmt: skip
    case = {
        **made.case, "seed": number * 7919, "tokens": 1 + number * 31 % 500,
        "key_heads": 1 + number % 5, "group": number % 4 + 1,
        "head_dim": 8 * (1 + number % 16), "value_dim": 8 * (1 + number % 15), "window_left": number % 40 or None,
        "window_right": 0, "sinks": number % 2 == 0, "key_mask": number % 3 == 0, "bias": "none", "scale": None,
        "layout": "fused", "cotangent": "one_hot", "regime": _REGIMES[number % 6],
    }  # fmt: skip
    return dataclasses.replace(made, case=case, seed=number * 7919)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the costs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=RECORDS)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = store(Path(name) / "run", many_records(options.records))
        process = subprocess.Popen([sys.executable, "-m", "harness", "report", str(folder)], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        size = (folder / "report" / "index.html").stat().st_size if status == 0 else 0
    sys.stdout.write(
        f"attest report of {options.records:,} records: {usage.ru_utime + usage.ru_stime:.1f} CPU s, peak memory "
        f"{usage.ru_maxrss / 1024:.0f} MiB, page {size / 1e6:.2f} MB\n"
    )
    return int(status != 0)


if __name__ == "__main__":
    raise SystemExit(main())
