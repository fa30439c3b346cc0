"""transformers' layers in float64, although they ask for float32 inside.

Norms, softmax, rotary tables and the delta rule of transformers convert to float32 whatever the dtype of the model is.
Two computations of one formula in float64 agree to about 1e-14, one of them with a detour through float32 to 1e-7 only,
which would hide a real difference. ``forced_float64`` answers every request for float32 with float64, and refuses to go
on if a float32 tensor comes into being all the same.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["forced_float64"]


class _WidenRequests(TorchFunctionMode):
    """Hands every call on with float64 where it names float32."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.float:
            func = Tensor.double
        return func(*map(_widened, args), **{name: _widened(value) for name, value in (kwargs or {}).items()})


def _widened(argument: object) -> object:
    return torch.float64 if argument is torch.float32 else argument


class _RefuseFloat32(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no annotations for it
    """Raises when an operator returns a float32 tensor: then a request was missed."""

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        if any(isinstance(result, Tensor) and result.dtype == torch.float32 for result in tree_leaves(results)):
            raise AssertionError(f"{func} computed in float32")
        return results


@contextmanager
def forced_float64() -> Iterator[None]:
    """Computes in float64 what is written to compute in float32, parameters made inside included.

    Raises:
        AssertionError: an operator returned a float32 tensor nevertheless.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _WidenRequests(), _RefuseFloat32():  # type: ignore[no-untyped-call]  # see the class
            yield
    finally:
        torch.set_default_dtype(before)
