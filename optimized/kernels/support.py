"""What every Triton operation asks of its tensors."""

import torch

from optimized.kernels.precision import STORAGE_DTYPES
from optimized.kernels.target import refuse_device

__all__ = ["check_eps", "refuse_tensors"]


def check_eps(eps: float) -> None:
    """Refuses an ``eps`` that is not positive in the float32 that kernels compute in: a zero row would divide by 0.

    Raises:
        ValueError: it is not.
    """
    if not torch.finfo(torch.float32).tiny <= eps < torch.inf:
        raise ValueError(f"eps: got {eps}, expected a positive number that float32 holds")


def refuse_tensors(*tensors: torch.Tensor) -> str | None:
    """Returns None if kernels can read these tensors, else a sentence that says why not; the first is the main one."""
    unsupported = [tensor.dtype for tensor in tensors if tensor.dtype not in STORAGE_DTYPES]
    if unsupported:
        return f"dtype: got {unsupported[0]}, expected float32, bfloat16 or float16"
    others = [tensor.device for tensor in tensors if tensor.device != tensors[0].device]
    if others:
        return f"device: got {tensors[0].device} and {others[0]}, expected the same device for all tensors"
    return refuse_device(tensors[0].device)
