"""Which assembler turns kernels into machine code for Hopper: not ptxas 12.8, whose code reads what was never written.

Triton 3.6 brings ptxas 12.8.93 and assembles for Hopper with it. In kernels that multiply a tile held in registers, its
code takes the place of the other tile in shared memory from uniform registers that nothing has written before, such as
``UIADD3 UR30, UP0, UR30, 0x40`` with no write of ``UR30`` ahead of it. On an H100 outputs were wrong by hundreds of
tolerances, or the device was lost: attention with 4 and with 12 value channels, the delta rule with 40 channels. The
same calls are right there with 13.0.88 and with 12.9.86, which Triton 3.6 also brings, for later architectures.
"""

import functools
import os
from typing import Any, Final

import triton

__all__ = ["choose_assembler"]

_AFFECTED: Final = "sm_90"
_FIRST_RIGHT: Final = (12, 9)
_SETTING: Final = "TRITON_PTXAS_PATH"


@functools.cache
def choose_assembler(arch: str) -> str | None:
    """Has Triton use an assembler that is right for an architecture; called before anything is compiled for it.

    The choice is Triton's own setting ``TRITON_PTXAS_PATH``, and so one for the whole process and those it starts. One
    that the user made stays.

    Args:
        arch: as ``architecture`` names it.

    Returns:
        None, or a sentence that says why there is no such assembler.
    """
    if arch != _AFFECTED:
        return None
    from triton.backends.nvidia import compiler

    tool = compiler.get_ptxas(int(arch.removeprefix("sm_")))
    if _release(tool) >= _FIRST_RIGHT:
        return None
    nvidia: Any = triton.knobs.nvidia
    other = None if os.environ.get(_SETTING) else getattr(nvidia, "ptxas_blackwell", None)
    if other is None or _release(other) < _FIRST_RIGHT:
        return f"ptxas: got {tool.version} for {arch}, which miscompiles, expected 12.9 or later ({_SETTING} names one)"
    nvidia.ptxas = other.path
    # Triton keeps compiled kernels by the assembler's version, and that version for the process.
    compiler.get_ptxas_version.cache_clear()
    return None


def _release(tool: Any) -> tuple[int, ...]:  # noqa: ANN401 - Triton's own type, which moved between versions
    return tuple(int(part) for part in tool.version.split("."))
