"""Checks of arguments that the operations share.

Every refusal is one sentence, ``argument: got X, expected Y``, raised before any work is done: ``TypeError`` for what
is no tensor or has the wrong dtype, ``ValueError`` for everything else.
"""

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

__all__ = [
    "require_bool",
    "require_bounds",
    "require_broadcastable",
    "require_divisible",
    "require_floats",
    "require_parameters",
    "require_positive",
    "require_shape",
]


def require_floats(**tensors: Tensor) -> None:
    """Requires floating-point tensors of one dtype on one device; the first sets both.

    Raises:
        TypeError: an argument is no tensor, is not floating-point or has another dtype than the first.
        ValueError: an argument is on another device than the first.
    """
    first: Tensor | None = None
    first_name = ""
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: got {type(tensor).__name__}, expected a tensor")
        if first is None:
            if not tensor.is_floating_point():
                raise TypeError(f"{name}: got {tensor.dtype}, expected a floating-point tensor")
            first, first_name = tensor, name
        elif tensor.dtype != first.dtype:
            raise TypeError(f"{name}: got {tensor.dtype}, expected {first.dtype}, the dtype of {first_name}")
        elif tensor.device != first.device:
            raise ValueError(f"{name}: got device {tensor.device}, expected {first.device}, that of {first_name}")


def require_shape(argument: str, tensor: Tensor, **axes: int | None) -> None:
    """Requires one axis per keyword, in this order, of the given length; ``None`` allows any length.

    Raises:
        ValueError: the number of axes or the length of one differs.
    """
    shape = tuple(tensor.shape)
    if len(shape) == len(axes) and all(
        want is None or have == want for have, want in zip(shape, axes.values(), strict=True)
    ):
        return
    expected = ", ".join(name if length is None else f"{name}={length}" for name, length in axes.items())
    raise ValueError(f"{argument}: got shape {shape}, expected ({expected})")


def require_broadcastable(argument: str, tensor: Tensor, **axes: int) -> None:
    """Requires a tensor that broadcasts to the given axes without enlarging them.

    Raises:
        ValueError: there are too many axes, or an axis is neither 1 nor as long as the one that it meets.
    """
    shape = tuple(tensor.shape)
    target = tuple(axes.values())
    aligned = zip(reversed(shape), reversed(target), strict=False)
    if len(shape) > len(target) or any(have not in {1, want} for have, want in aligned):
        expected = ", ".join(f"{name}={length}" for name, length in axes.items())
        raise ValueError(f"{argument}: got shape {shape}, expected one that broadcasts to ({expected})")


def require_bool(argument: str, tensor: Tensor, *, device: torch.device) -> None:
    """Requires a boolean tensor on a device.

    Raises:
        TypeError: the argument is no tensor or not boolean.
        ValueError: it is on another device.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{argument}: got {type(tensor).__name__}, expected a boolean tensor")
    if tensor.dtype != torch.bool:
        raise TypeError(f"{argument}: got {tensor.dtype}, expected torch.bool")
    if tensor.device != device:
        raise ValueError(f"{argument}: got device {tensor.device}, expected {device}")


def require_positive(argument: str, value: float) -> None:
    """Requires a positive, finite number.

    Raises:
        TypeError: the argument is not a number.
        ValueError: it is zero, negative, infinite or NaN.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{argument}: got {type(value).__name__}, expected a number")
    if not 0 < value < float("inf"):
        raise ValueError(f"{argument}: got {value!r}, expected a positive finite number")


def require_divisible(argument: str, value: int, *, by: int, divisor: str) -> None:
    """Requires a number of heads to be a positive multiple of another.

    Raises:
        ValueError: it is not.
    """
    if by <= 0 or value <= 0 or value % by:
        raise ValueError(f"{argument}: got {value} heads, expected a positive multiple of the {by} of {divisor}")


def require_bounds(argument: str, offsets: Tensor, *, num_tokens: int, device: torch.device) -> list[int]:
    """Requires the bounds of packed sequences, ``[0, end of first, ..., num_tokens]``, and returns them as a list.

    Raises:
        TypeError: the argument is no tensor or its dtype is neither int32 nor int64.
        ValueError: it is on another device, has not one axis of at least two entries, does not start at 0, decreases
            or does not end at ``num_tokens``.
    """
    if not isinstance(offsets, Tensor):
        raise TypeError(f"{argument}: got {type(offsets).__name__}, expected a tensor")
    if offsets.dtype not in {torch.int32, torch.int64}:
        raise TypeError(f"{argument}: got {offsets.dtype}, expected torch.int32 or torch.int64")
    if offsets.device != device:
        raise ValueError(f"{argument}: got device {offsets.device}, expected {device}")
    if offsets.dim() != 1 or offsets.shape[0] < 2:
        raise ValueError(f"{argument}: got shape {tuple(offsets.shape)}, expected (num_sequences + 1,)")
    bounds: list[int] = offsets.tolist()
    if bounds[0] != 0 or bounds[-1] != num_tokens or any(a > b for a, b in pairwise(bounds)):
        raise ValueError(f"{argument}: got {bounds}, expected non-decreasing numbers from 0 to {num_tokens}")
    return bounds


def require_parameters(
    parameters: Mapping[str, Tensor], shapes: Mapping[str, tuple[int | None, ...]], *, like: Tensor
) -> None:
    """Requires exactly the named parameters, each of its shape and of the dtype and device of ``like``.

    ``None`` in a shape allows any length. A parameter that the layer does not have is an error too: it would be
    ignored in silence.

    Raises:
        ValueError: a name is missing or unknown, or a parameter has another shape or device.
        TypeError: a parameter is no tensor or has another dtype.
    """
    if parameters.keys() != shapes.keys():
        got, expected = sorted(parameters), sorted(shapes)
        raise ValueError(f"parameters: got {got}, expected {expected}")
    for name, expected_shape in shapes.items():
        parameter = parameters[name]
        require_floats(hidden_states=like, **{f"parameters[{name!r}]": parameter})
        shape = tuple(parameter.shape)
        if len(shape) != len(expected_shape) or any(
            want is not None and have != want for have, want in zip(shape, expected_shape, strict=True)
        ):
            wanted = str(expected_shape).replace("None", "any")
            raise ValueError(f"parameters[{name!r}]: got shape {shape}, expected {wanted}")
