"""RMSNorm over the last axis on Triton kernels, forward and backward.

``y = x r w`` with ``r = 1 / sqrt(mean(x^2) + eps)`` and ``w = weight`` or ``1 + weight`` (Zhang and Sennrich, 2019).
With the cotangent ``g``, ``x^ = x r`` and ``h = g w``::

    dx = r (h - x^ mean(h x^))        dweight = sum over rows of g x^

Each pass reads ``x`` once and computes ``r`` again instead of storing it. Everything is float32 inside; the output and
the gradients are rounded when they are stored. A program of the backward pass adds up the weight gradient of its own
rows, in float32, and torch adds up the programs in a fixed order: gradients repeat bit by bit.
Letters: C channels, the last axis.
"""

from typing import Any

import torch
import triton
from torch.autograd.function import once_differentiable

from optimized.kernels.precision import (
    STORAGE_DTYPES,
    allocate_output,
    finish_output,
    kernel_input,
    non_stop_arithmetic,
)
from optimized.kernels.rms_norm import backward_kernel, forward_kernel
from optimized.kernels.target import architecture, refuse_device
from optimized.kernels.tiling import padded_width, rms_norm_tiles

__all__ = ["rms_norm", "supports"]

_MAX_WIDTH = 32768


def rms_norm(x: torch.Tensor, weight: torch.Tensor, *, eps: float, zero_centered: bool = False) -> torch.Tensor:
    """Returns ``x / sqrt(mean(x^2) + eps) * w`` over the last axis, ``w = weight`` or ``1 + weight``.

    A zero row gives 0 with a finite gradient. Squares are summed in float32: a row of magnitude beyond 2^63 overflows.

    Args:
        x: ``(..., C)``, float32, bfloat16 or float16; the result has its shape and format and is contiguous. Up to
            three axes before the last may have any strides; a tensor of more irregular axes is copied first.
        weight: ``(C,)``, one of these formats, not necessarily that of ``x``.
        eps: added inside the root, positive.
        zero_centered: whether the factor is ``1 + weight``.

    Raises:
        ValueError: a shape or ``eps`` is wrong, or ``supports`` names a reason.
    """
    if x.ndim == 0 or weight.shape != x.shape[-1:]:
        raise ValueError(f"weight: got shape {tuple(weight.shape)}, expected the last axis of x {tuple(x.shape)}")
    if not eps > 0:
        raise ValueError(f"eps: got {eps}, expected a positive number")
    reason = supports(x, weight, eps=eps, zero_centered=zero_centered)
    if reason is not None:
        raise ValueError(reason)
    result: torch.Tensor = _RmsNorm.apply(x, weight, float(eps), zero_centered)  # type: ignore[no-untyped-call]  # torch
    return result


def supports(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    eps: float,  # noqa: ARG001  # the call's own arguments
    zero_centered: bool = False,  # noqa: ARG001  # the call's own arguments
) -> str | None:
    """Returns None if ``rms_norm`` computes this call, else a sentence that says why not; arguments as there."""
    unsupported = [tensor.dtype for tensor in (x, weight) if tensor.dtype not in STORAGE_DTYPES]
    if unsupported:
        return f"dtype: got {unsupported[0]}, expected float32, bfloat16 or float16"
    if not 0 < x.shape[-1] <= _MAX_WIDTH:
        return f"x: got {x.shape[-1]} channels, expected 1 to {_MAX_WIDTH}"
    if x.device != weight.device:
        return f"device: got {x.device} and {weight.device}, expected the same device for all tensors"
    return refuse_device(x.device)


class _RmsNorm(torch.autograd.Function):
    """Ties the forward and the backward kernel together."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # takes attributes
        x: torch.Tensor,
        weight: torch.Tensor,
        eps: float,
        zero_centered: bool,  # noqa: FBT001  # autograd passes positional arguments
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps, ctx.zero_centered = eps, zero_centered
        # Triton launches on the current device, which need not be that of the tensors (autograd sees to it backwards).
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # torch
            return launch_forward(x, weight, eps=eps, zero_centered=zero_centered)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401  # takes attributes
        out_gradient: torch.Tensor,
    ) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight = launch_backward(
            x, weight, out_gradient, eps=ctx.eps, zero_centered=ctx.zero_centered, of_weight=ctx.needs_input_grad[1]
        )
        return of_x, of_weight, None, None


def launch_forward(x: torch.Tensor, weight: torch.Tensor, *, eps: float, zero_centered: bool) -> torch.Tensor:
    """Returns the output of checked arguments."""
    C = x.shape[-1]
    out = allocate_output(x.shape, dtype=x.dtype, device=x.device)
    tiles = rms_norm_tiles(width=C, arch=architecture(x.device))
    num_rows = x.numel() // C
    rows = _as_rows(kernel_input(x))
    if num_rows:
        with non_stop_arithmetic():
            forward_kernel[(triton.cdiv(num_rows, tiles.block_rows),)](
                rows,
                kernel_input(weight).contiguous(),
                out,
                rows.stride(),
                num_rows,
                rows.shape[1],
                rows.shape[2],
                eps,
                WIDTH=C,
                IS_ZERO_CENTERED=zero_centered,
                BLOCK_R=tiles.block_rows,
                BLOCK_C=padded_width(C),
                num_warps=tiles.num_warps,
                enable_fp_fusion=True,
            )
    return finish_output(out, dtype=x.dtype)


def launch_backward(
    x: torch.Tensor,
    weight: torch.Tensor,
    out_gradient: torch.Tensor,
    *,
    eps: float,
    zero_centered: bool,
    of_weight: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Returns the gradients of x and, if wanted, of the weight."""
    C = x.shape[-1]
    gradient = allocate_output(x.shape, dtype=x.dtype, device=x.device)
    tiles = rms_norm_tiles(width=C, arch=architecture(x.device))
    num_rows = x.numel() // C
    num_blocks = triton.cdiv(num_rows, tiles.block_rows)
    num_programs = min(num_blocks, tiles.num_programs)
    partials = torch.empty((num_programs, C), dtype=torch.float32, device=x.device) if of_weight else None
    rows, cotangents = _as_rows(kernel_input(x)), _as_rows(kernel_input(out_gradient))
    if num_rows:
        with non_stop_arithmetic():
            backward_kernel[(num_programs,)](
                rows,
                kernel_input(weight).contiguous(),
                cotangents,
                gradient,
                partials,
                rows.stride(),
                cotangents.stride(),
                num_rows,
                rows.shape[1:3],
                cotangents.shape[1:3],
                triton.cdiv(num_blocks, num_programs),
                eps,
                WIDTH=C,
                IS_ZERO_CENTERED=zero_centered,
                HAS_WEIGHT_GRADIENT=of_weight,
                BLOCK_R=tiles.block_rows,
                BLOCK_C=padded_width(C),
                num_warps=tiles.num_warps,
                enable_fp_fusion=True,
            )
    weight_gradient = None if partials is None else partials.sum(0).to(weight.dtype)
    return finish_output(gradient, dtype=x.dtype), weight_gradient


def _as_rows(x: torch.Tensor) -> torch.Tensor:
    """Returns ``x`` as ``(a, b, c, C)``: a view wherever its leading axes merge into three, else a copy."""
    sizes: list[int] = []
    strides: list[int] = []
    for size, stride in zip(x.shape[:-1], x.stride()[:-1], strict=True):
        if size == 1:
            continue
        if strides and strides[-1] == size * stride:
            sizes[-1] *= size
            strides[-1] = stride
        else:
            sizes.append(size)
            strides.append(stride)
    if len(sizes) > 3 or x.numel() == 0:
        return x.reshape(1, 1, -1, x.shape[-1])
    padding = 3 - len(sizes)
    return x.as_strided((*[1] * padding, *sizes, x.shape[-1]), (*[0] * padding, *strides, x.stride(-1)))
