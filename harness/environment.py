"""What a record was made with: device, versions, commit, threads."""

import functools
import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["snapshot"]

_PACKAGES = ("attest", "torch", "triton", "numpy", "hypothesis", "flash-attn", "flash-attn-4")


@functools.cache
def snapshot(device: str, threads: int) -> dict[str, Any]:
    """Returns the environment of a run as JSON data; computed once per process.

    Args:
        device: ``cpu`` or ``cuda``.
        threads: threads per worker.
    """
    import torch

    on_gpu = device == "cuda"
    return {
        "device": device,
        "device_name": torch.cuda.get_device_name() if on_gpu else _processor(),
        "driver": _first_line(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
        if on_gpu
        else None,
        "cores": os.cpu_count(),
        "threads": threads,
        "python": platform.python_version(),
        "system": platform.platform(),
        "ptxas": _ptxas(),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if _git("rev-parse", "HEAD") is None else bool(_git("status", "--porcelain")),
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    return _first_line(["git", "-C", str(root), *arguments])


def _ptxas() -> str | None:
    """Returns the releases of the assemblers that Triton brings, which decide about some miscompiled kernels.

    It takes one or the other by the architecture: ``ptxas-blackwell`` from sm_100 on in 3.6, from sm_90 on in 3.9. Our
    kernels take that one on sm_90 too where the other is 12.8 (``optimized/kernels/assembler.py``).
    """
    try:
        import triton
    except ImportError:
        return None
    tools = sorted((Path(triton.__file__).parent / "backends" / "nvidia" / "bin").glob("ptxas*"))
    return "; ".join(f"{tool.name} {release}" for tool in tools if (release := _release(tool))) or None


def _release(tool: Path) -> str | None:
    lines = _lines([str(tool), "--version"])
    return next((line.split("release ")[1] for line in lines if "release " in line), None)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _first_line(command: list[str]) -> str | None:
    lines = _lines(command)
    return lines[0] if lines else None


def _lines(command: list[str]) -> list[str]:
    if shutil.which(command[0]) is None:
        return []
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return result.stdout.splitlines() if result.returncode == 0 else []
