"""What unchanged Triton kernels of other projects need in Triton's interpreter; on a GPU nothing is changed.

Five things that a GPU has are missing there. A kernel with several launch settings is timed on a device that is not
there: the first setting is taken. A number such as eps arrives as Python's instead of as float32, and the variable of a
loop as Python's integer, which has no ``to``: both get what the compiler gives them. Nobody counts multiprocessors:
there are two. CUDA's library of functions is missing: Triton's own reciprocal root stands for it. None of it touches
what a kernel computes.
"""

import builtins
import functools
import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

__all__ = ["imported", "is_interpreted"]

_LOOPS = ("fla.ops.common.chunk_delta_h",)
"""Modules whose kernels convert the variable of a loop."""

_ROOTS = ("liger_kernel.ops.rms_norm",)
"""Modules whose kernels take ``rsqrt`` from CUDA's library."""


def is_interpreted() -> bool:
    """Returns whether this process runs Triton kernels in the interpreter, as the testbench's workers on a CPU do."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def imported(module: str) -> Any:
    """Returns a module with Triton kernels, made to run in the interpreter if this process interprets."""
    if is_interpreted():
        _prepare()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no GPU is no news
        found = importlib.import_module(module)
    for name in _LOOPS if is_interpreted() else ():
        if name in sys.modules:
            vars(sys.modules[name])["range"] = _range
    for name in _ROOTS if is_interpreted() else ():
        if name in sys.modules:
            vars(sys.modules[name])["rsqrt"] = _rsqrt
    return found


@functools.cache
def _prepare() -> None:
    import triton.language as tl
    from triton.runtime import interpreter
    from triton.runtime.autotuner import Autotuner

    prune, convert = Autotuner.prune_configs, interpreter._implicit_cvt

    def first_config(self: Any, arguments: Any) -> list[Any]:
        return list(prune(self, arguments))[:1]

    def float_as_float32(argument: object) -> Any:
        if not isinstance(argument, float):
            return convert(argument)
        handle = interpreter.TensorHandle(np.array([argument], dtype=np.float32), tl.float32)
        return tl.tensor(handle, tl.float32)

    for owner, name, replacement in (
        (Autotuner, "prune_configs", first_config),
        (interpreter, "_implicit_cvt", float_as_float32),
        (torch.cuda, "get_device_properties", lambda *_: SimpleNamespace(multi_processor_count=2)),
    ):
        setattr(owner, name, replacement)


class _Index(int):
    """The variable of a loop, which can be converted as the compiler's can."""

    def to(self, dtype: Any) -> Any:
        """Returns it as a scalar tensor of a dtype."""
        import triton.language as tl
        from triton.runtime.interpreter import TensorHandle

        return tl.tensor(TensorHandle(np.array([int(self)], dtype=np.int64), tl.int64), tl.int64).to(dtype)


def _range(*bounds: Any) -> Iterator[_Index]:
    return map(_Index, builtins.range(*bounds))


def _rsqrt(value: Any) -> Any:
    """The reciprocal root as the interpreter has it while a kernel runs."""
    import triton.language as tl

    return tl.rsqrt(value)
