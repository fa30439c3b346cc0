"""Head widths that the kernels have, and zeros that make others of them.

Zero channels of query and key add nothing to a score, zero channels of the value are cut off the output again, and the
gradients of both are cut off too: padding is exact. Letters: D query/key head width, V value head width.

Widths between those below are not used although the forward kernels take every multiple of 8: the Hopper backward
pass of 4.0.0b36 gives wrong query gradients where a width rounds up to 16 but not to 32, as 72 and 104 do
(flash-attention pull request 2896).
"""

from typing import Final

import torch
from torch import Tensor

__all__ = ["kernel_widths", "pad_width", "refuse_widths"]

_HOPPER: Final = ((64, 64), (96, 96), (128, 128), (192, 128), (192, 192), (256, 256))
_BLACKWELL: Final = ((64, 64), (96, 96), (128, 128), (192, 128), (256, 256))
_LARGEST: Final = 256


def kernel_widths(head_width: int, value_width: int, *, arch: str, is_grouped: bool) -> tuple[int, int]:
    """Returns the smallest pair ``(D, V)`` of a kernel on ``arch`` that holds both widths.

    Args:
        head_width: width of queries and keys.
        value_width: width of values.
        arch: ``"sm_90"`` and the like.
        is_grouped: whether several query heads share a key head, whose gradients on Hopper then need ``D = V``.

    Raises:
        ValueError: no kernel holds them.
    """
    for pair in _HOPPER if _is_hopper(arch) else _BLACKWELL:
        is_there = pair[0] == pair[1] or not (is_grouped and _is_hopper(arch))
        if is_there and head_width <= pair[0] and value_width <= pair[1]:
            return pair
    raise ValueError(f"head width: got {max(head_width, value_width)}, expected at most {_LARGEST}")


def refuse_widths(head_width: int, value_width: int, *, arch: str, needs_gradients: bool) -> str | None:
    """Returns None if there is a kernel for these widths on ``arch``, else a sentence that says why not."""
    if max(head_width, value_width) > _LARGEST:
        return f"head width: got {max(head_width, value_width)}, expected at most {_LARGEST}"
    is_largest = kernel_widths(head_width, value_width, arch=arch, is_grouped=False) == (_LARGEST, _LARGEST)
    if needs_gradients and is_largest and not _is_hopper(arch):
        return (
            f"head width: got {head_width} and value width {value_width} on {arch}, expected at most 192 and 128 where "
            "gradients are wanted: the backward pass beyond takes neither sinks nor a gradient of the logsumexp"
        )
    return None


def pad_width(tensor: Tensor, width: int) -> Tensor:
    """Returns ``tensor`` with zeros behind its last axis up to ``width``; the tensor itself if it is as wide."""
    missing = width - tensor.shape[-1]
    return torch.nn.functional.pad(tensor, (0, missing)) if missing else tensor


def _is_hopper(arch: str) -> bool:
    return arch == "sm_90"
