"""What the machine is and what it can do at most: versions, the copy bandwidth, the rate of a matrix product.

``python -m harness.gpu.machine --device cuda --out DIR`` writes ``machine.json``.
"""

import argparse
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from harness.bench.ceilings import measure_ceilings
from harness.environment import snapshot

__all__ = ["main"]

_PACKAGES = (
    "torch", "triton", "numpy", "hypothesis", "transformers", "flash-attn-4", "nvidia-cutlass-dsl", "quack-kernels",
    "apache-tvm-ffi", "fla-core", "liger-kernel", "einops", "jinja2", "matplotlib", "python-flint",
)  # fmt: skip
_PEERS = ("flash_attn.cute", "fla.ops.gated_delta_rule", "liger_kernel.ops.rms_norm")
_QUERY = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,temperature.gpu,power.draw,memory.total"


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes what the machine is."""
    parser = argparse.ArgumentParser(prog="python -m harness.gpu.machine", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--commit", default="")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.stderr.write("--device: got 'cuda', expected a machine with a CUDA device that torch can use\n")
        return 2
    found: dict[str, Any] = {
        "commit": options.commit,
        "environment": snapshot(options.device, 1),
        "versions": {name: _version(name) for name in _PACKAGES},
        "cores": len(os.sched_getaffinity(0)),
        "cuda": torch.version.cuda,
        "imports": {name: _imports(name) for name in _PEERS},
    }  # fmt: skip
    if options.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found["gpu"] = {
            "name": properties.name, "capability": list(torch.cuda.get_device_capability(0)),
            "multiprocessors": properties.multi_processor_count, "memory_bytes": properties.total_memory,
            "l2_bytes": properties.L2_cache_size, "before": _smi(),
        }  # fmt: skip
    ceilings = measure_ceilings(options.device)
    found["ceilings"] = {"copy_gb_s": ceilings.copy_gb_s, "matmul_tflop_s": ceilings.matmul_tflop_s}
    if options.device == "cuda":
        found["gpu"]["after"] = _smi()
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1)
    (options.out / "machine.json").write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")
    return 0


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _imports(name: str) -> str:
    """Returns ``ok``, or why a package does not import, tried in a process of its own."""
    tried = subprocess.run(
        [sys.executable, "-c", f"import {name}"], capture_output=True, text=True, check=False, timeout=100
    )
    return "ok" if tried.returncode == 0 else (tried.stderr.strip().splitlines() or ["no message"])[-1]


def _smi() -> str | None:
    """Returns clocks, temperature and power as nvidia-smi says them."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout.strip()


if __name__ == "__main__":
    raise SystemExit(main())
