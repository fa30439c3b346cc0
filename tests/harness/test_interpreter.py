"""Triton's interpreter made quick computes what it computed before."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

BEFORE_AND_AFTER = """
import hashlib
import inspect
import torch
import triton.runtime.interpreter as interpreter
from harness import interpreter as ours
from harness.strategies import draw_cases
from harness.ops import operation
from harness.wire import raw_bytes
from harness.worker import Server

PLAN = {"rms_norm": "triton-rms-norm-fp32", "attention": "triton-attention-fp32",
        "gated_delta_rule": "triton-delta-rule-fp32", "silu_mul": "triton-silu-mul-fp32"}
looked = []
getmembers = inspect.getmembers
inspect.getmembers = lambda *args: looked.append(args) or getmembers(*args)

def results():
    torch.manual_seed(0)
    server, digest, statuses = Server("cpu", 1), hashlib.sha256(), set()
    for op, name in PLAN.items():
        for case in draw_cases(operation(op), 2, seed_value=3, dtypes=["float32"], largest=12):
            header, tensors = server.answer({"kind": "run", "case": case.to_data(), "candidate": name})
            statuses.add(header["status"])
            for key in sorted(tensors):
                digest.update(raw_bytes(tensors[key]))
    return digest.hexdigest(), statuses

setattr(interpreter, ours._DONE, True)  # as if it were done: what comes now is Triton's own
stock, often = results(), len(looked)
delattr(interpreter, ours._DONE)
looked.clear()
quick, seldom = results(), len(looked)
left = [name for part in (interpreter.tl, interpreter.tl.math) for name, item in vars(part).items()
        if getattr(item, "__name__", "") == "<lambda>"]
print(stock == quick, stock[1] == {'ok'}, often > 20 * seldom > 0, hasattr(interpreter, ours._DONE), left)
"""


def test_results_are_the_same_bits_and_the_language_is_looked_up_once() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1"}
    finished = subprocess.run(
        [sys.executable, "-c", BEFORE_AND_AFTER], env=environment, capture_output=True, text=True, check=False
    )
    assert finished.stdout.split(maxsplit=4) == ["True", "True", "True", "True", "[]\n"], finished.stderr
