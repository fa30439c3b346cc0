"""Checks of arguments, before any work: every refusal is one sentence ``argument: got X, expected Y``.

Letters: B batch, T query tokens, S key tokens, H query heads, G key/value heads, D query/key head width, V value head
width.
"""

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

__all__ = [
    "Window",
    "check_attention",
    "check_key_mask",
    "check_multiple",
    "check_offsets",
    "check_parameters",
    "check_shape",
    "check_width",
]

Window = tuple[int | None, int | None]
"""Keys that a query sees to its left and to its right, besides its own position; None is unbounded."""


def check_shape(argument: str, tensor: Tensor, expected: tuple[int | str, ...]) -> None:
    """Refuses a tensor of another shape.

    Args:
        argument: name shown in the message.
        tensor: tensor to look at.
        expected: one entry per axis: its size, or the axis's letter where any size is right.

    Raises:
        TypeError: it is no tensor.
        ValueError: the number of axes or a size differs.
    """
    wanted = ", ".join(map(str, expected))
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{argument}: got {type(tensor).__name__}, expected a tensor ({wanted})")
    agrees = tensor.ndim == len(expected) and all(
        isinstance(size, str) or size == got for got, size in zip(tensor.shape, expected, strict=True)
    )
    if not agrees:
        raise ValueError(f"{argument}: got shape {tuple(tensor.shape)}, expected ({wanted})")


def check_width(argument: str, tensor: Tensor, expected: int) -> None:
    """Refuses a tensor whose last axis has another size.

    Raises:
        TypeError: it is no tensor.
        ValueError: the last size is not ``expected``.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{argument}: got {type(tensor).__name__}, expected a tensor (..., {expected})")
    if tensor.ndim == 0 or tensor.shape[-1] != expected:
        raise ValueError(f"{argument}: got shape {tuple(tensor.shape)}, expected (..., {expected})")


def check_parameters(parameters: Mapping[str, Tensor], expected: Mapping[str, tuple[int | str, ...]]) -> None:
    """Refuses parameters of which one is missing or has another shape; further ones are ignored.

    Raises:
        ValueError: a name is missing or a shape differs.
    """
    for name, shape in expected.items():
        if name not in parameters:
            raise ValueError(f"parameters: got {', '.join(parameters) or 'none'}, expected {name} among them")
        check_shape(name, parameters[name], shape)


def check_multiple(argument: str, got: int, divisor: int) -> None:
    """Refuses a number that is not a multiple of a positive ``divisor``.

    Raises:
        ValueError: ``got % divisor`` is not 0.
    """
    if divisor < 1 or got % divisor != 0:
        raise ValueError(f"{argument}: got {got}, expected a multiple of {divisor}")


def check_key_mask(argument: str, mask: Tensor | None, *, batch: int, tokens: int) -> None:
    """Refuses a mask that is neither None nor a boolean ``(B, S)``.

    Raises:
        TypeError: the mask is no tensor, or not boolean.
        ValueError: the shape is not ``(batch, tokens)``.
    """
    if mask is None:
        return
    if not isinstance(mask, Tensor):
        raise TypeError(
            f"{argument}: got {type(mask).__name__}, expected None or a boolean key mask ({batch}, {tokens})"
        )
    if mask.dtype != torch.bool:
        raise TypeError(f"{argument}: got dtype {mask.dtype}, expected a boolean key mask (True = may be seen)")
    check_shape(argument, mask, (batch, tokens))


def check_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    window: Window,
    sinks: Tensor | None,
    key_mask: Tensor | None,
    bias: Tensor | None,
) -> None:
    """Refuses arguments that ``attention`` does not define.

    Raises:
        TypeError: the key mask is not boolean.
        ValueError: a shape disagrees, the query heads are no multiple of the key heads, or the window is no pair.
    """
    check_shape("query", query, ("B", "T", "H", "D"))
    B, T, H, D = query.shape
    check_shape("key", key, (B, "S", "G", D))
    S, G = key.shape[1], key.shape[2]
    check_shape("value", value, (B, S, G, "V"))
    check_multiple("query heads", H, G)
    if len(window) != 2:
        raise ValueError(f"window: got {window!r}, expected a pair (left, right) of integers or None")
    if sinks is not None:
        check_shape("sinks", sinks, (H,))
    check_key_mask("key_mask", key_mask, batch=B, tokens=S)
    if bias is not None:
        full = (B, H, T, S)
        if bias.ndim > 4 or any(
            got not in (1, size) for got, size in zip(reversed(bias.shape), reversed(full), strict=False)
        ):
            raise ValueError(f"bias: got shape {tuple(bias.shape)}, expected a shape that broadcasts to {full}")


def check_offsets(argument: str, offsets: Tensor, *, tokens: int) -> list[int]:
    """Returns the offsets of packed sequences as integers, ``[0, ..., tokens]``.

    Raises:
        ValueError: they do not start at 0, fall, or do not end at ``tokens``.
    """
    check_shape(argument, offsets, ("sequences + 1",))
    values = [int(offset) for offset in offsets.tolist()]
    falls = any(end < start for start, end in pairwise(values))
    if not values or values[0] != 0 or values[-1] != tokens or falls:
        raise ValueError(f"{argument}: got {values}, expected rising offsets from 0 to {tokens}")
    return values
