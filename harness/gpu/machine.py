"""What the machine is and what it can do at most: versions, the copy bandwidth, the rate of a matrix product.

``python -m harness.gpu.machine --device cuda --out DIR`` writes ``machine.json``.
"""

import argparse
import importlib.metadata
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from harness.environment import snapshot
from harness.gpu.costs import Ceilings
from harness.gpu.stopwatch import device_seconds

__all__ = ["main", "measure_ceilings"]

_PACKAGES = (
    "torch", "triton", "numpy", "hypothesis", "transformers", "flash-attn-4", "nvidia-cutlass-dsl", "quack-kernels",
    "apache-tvm-ffi", "fla-core", "liger-kernel", "einops", "jinja2", "matplotlib", "python-flint",
)  # fmt: skip
_PEERS = ("flash_attn.cute", "fla.ops.gated_delta_rule", "liger_kernel.ops.rms_norm")
_QUERY = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,temperature.gpu,power.draw,memory.total"


def measure_ceilings(device: str) -> Ceilings:
    """Returns the copy bandwidth and the rate of a large bfloat16 matrix product, on random values."""
    on_gpu = device == "cuda"
    count, size = (2**31, 8192) if on_gpu else (2**22, 256)
    source = torch.randn(count // 4, device=device)
    target = torch.empty_like(source)
    copied = 2 * source.numel() * source.element_size()
    copy_s = _median_s(lambda: target.copy_(source), device)
    left, right = (torch.randn(size, size, device=device).to(torch.bfloat16) for _ in range(2))
    product_s = _median_s(lambda: left @ right, device)
    return Ceilings(copy_gb_s=copied / copy_s / 1e9, matmul_tflop_s=2 * size**3 / product_s / 1e12)


def _median_s(call: Callable[[], object], device: str, repeats: int = 15) -> float:
    seconds: list[float] = []
    for _ in range(3):
        call()
    for _ in range(repeats):
        if device == "cuda":
            seconds.append(device_seconds(call))
        else:
            started = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


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
