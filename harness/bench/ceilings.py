"""What a machine can do at most: the bandwidth of a copy and the rate of a matrix product, on random values."""

import statistics
import time
from collections.abc import Callable

import torch

from harness.bench.costs import Ceilings
from harness.bench.stopwatch import device_seconds, host_seconds

__all__ = ["measure_ceilings"]

_GPU_BYTES, _GPU_SIZE = 2**31, 8192

_CPU_BYTES, _CPU_SIZES = (2**14, 2**17, 2**20, 2**24), (256, 768)
"""A small copy stays in a cache, which a small call does as well: the fastest of the sizes is the ceiling."""

_LONG_S = 0.3
"""After so long the fastest of a CPU is not looked for any more."""


def measure_ceilings(device: str) -> Ceilings:
    """Returns the ceilings; on a CPU those of the threads that torch has."""
    on_gpu = device == "cuda"
    copies = [_copy_gb_s(count, device) for count in ((_GPU_BYTES,) if on_gpu else _CPU_BYTES)]
    formats = (torch.bfloat16,) if on_gpu else (torch.float32, torch.bfloat16)
    sizes = (_GPU_SIZE,) if on_gpu else _CPU_SIZES
    products = [_product_tflop_s(size, dtype, device) for size in sizes for dtype in formats]
    return Ceilings(copy_gb_s=max(copies), matmul_tflop_s=max(products))


def _copy_gb_s(count: int, device: str) -> float:
    source = torch.randn(count // 4, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * source.element_size() / _seconds(lambda: target.copy_(source), device) / 1e9


def _product_tflop_s(size: int, dtype: torch.dtype, device: str) -> float:
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    return 2 * size**3 / _seconds(lambda: torch.mm(left, right, out=out), device) / 1e12


def _seconds(call: Callable[[], object], device: str, repeats: int = 15) -> float:
    """Returns the median on a GPU; on a CPU, which others share, the fastest.

    A CPU without 16-bit products takes half a second for one of them, which is no ceiling: two calls will do there.
    """
    clock = device_seconds if device == "cuda" else host_seconds
    began = time.monotonic()

    def is_over() -> bool:
        return device != "cuda" and time.monotonic() - began > _LONG_S

    for _ in range(3):
        if not is_over():
            call()
    measured = [clock(call)]
    while len(measured) < repeats and not is_over():
        measured.append(clock(call))
    return statistics.median(measured) if device == "cuda" else min(measured)
