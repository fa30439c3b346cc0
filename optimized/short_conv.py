"""Short causal depthwise convolution with SiLU on Triton kernels, forward and backward.

``z_t = sum_j w_j u_(t - (K - 1) + j)`` with ``u = mask x``, and ``y = z s(z)`` with the logistic function ``s`` (the
short convolution of Gu and Dao, "Mamba", 2023, section 3.4). With the cotangent ``g`` and
``h = g s(z) (1 + z (1 - s(z)))``::

    dx_t = mask_t sum_j w_j h_(t + (K - 1) - j)        dw_j = sum over tokens of h_t u_(t - (K - 1) + j)

One kernel each way, which reads ``x`` (and ``g``) once; the backward one computes ``z`` again instead of storing it.
Everything is float32 inside; the output and the gradients are rounded when they are stored. A program of the backward
pass adds up the weight gradient of its own tokens, and torch adds up the programs in a fixed order: gradients repeat
bit by bit. Letters: B batch, T tokens, C channels, K taps.
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
from optimized.kernels.rows import index_dtype
from optimized.kernels.short_conv import backward_kernel, forward_kernel
from optimized.kernels.support import refuse_tensors
from optimized.kernels.target import architecture
from optimized.kernels.tiling import ShortConvTiles, short_conv_tiles

__all__ = ["short_conv", "supports"]

_MAX_TAPS = 8


def short_conv(x: torch.Tensor, weight: torch.Tensor, *, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Returns ``silu(sum_j weight[c, j] * x[b, t - (K - 1) + j, c])``.

    Tap ``K - 1`` is the current token; tokens before the start are 0, also where ``T < K``. The mask multiplies x
    first: a masked token gives nothing to later ones, unless it is infinite or NaN, and has an output of its own.

    Args:
        x: ``(B, T, C)``, float32, bfloat16 or float16, of any strides; quickest if channels are adjacent.
        weight: ``(C, K)`` with K from 1 to 8, one of these formats, not necessarily that of ``x``.
        mask: ``(B, T)``, boolean or one of these formats, without gradient; None is all ones.

    Returns:
        Shape and format of ``x``, contiguous.

    Raises:
        ValueError: a shape is wrong, or ``supports`` names a reason.
    """
    if x.ndim != 3:
        raise ValueError(f"x: got shape {tuple(x.shape)}, expected (B, T, C)")
    if weight.ndim != 2 or weight.shape[0] != x.shape[2]:
        raise ValueError(f"weight: got shape {tuple(weight.shape)}, expected ({x.shape[2]}, K)")
    if mask is not None and mask.shape != x.shape[:2]:
        raise ValueError(f"mask: got shape {tuple(mask.shape)}, expected {tuple(x.shape[:2])}")
    reason = supports(x, weight, mask=mask)
    if reason is not None:
        raise ValueError(reason)
    result: torch.Tensor = _ShortConv.apply(x, weight, mask)  # type: ignore[no-untyped-call]  # torch
    return result


def supports(x: torch.Tensor, weight: torch.Tensor, *, mask: torch.Tensor | None = None) -> str | None:
    """Returns None if ``short_conv`` computes this call, else a sentence that says why not; arguments as there."""
    if not 1 <= weight.shape[-1] <= _MAX_TAPS:
        return f"weight: got {weight.shape[-1]} taps, expected 1 to {_MAX_TAPS}"
    if mask is not None:
        if mask.dtype != torch.bool and mask.dtype not in STORAGE_DTYPES:
            return f"mask: got dtype {mask.dtype}, expected bool, float32, bfloat16 or float16"
        if mask.requires_grad:
            return "mask: got a tensor that requires a gradient, expected a constant"
        if mask.device != x.device:
            return f"mask: got device {mask.device}, expected that of x, {x.device}"
    return refuse_tensors(x, weight)


class _ShortConv(torch.autograd.Function):
    """Ties the forward and the backward kernel together."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # takes attributes
        x: torch.Tensor,
        weight: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, mask)
        # Triton launches on the current device, which need not be that of the tensors (autograd sees to it backwards).
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # torch
            return launch_forward(x, weight, mask)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401  # takes attributes
        out_gradient: torch.Tensor,
    ) -> tuple[torch.Tensor | None, ...]:
        x, weight, mask = ctx.saved_tensors
        return *launch_backward(x, weight, mask, out_gradient, of_weight=ctx.needs_input_grad[1]), None


def launch_forward(x: torch.Tensor, weight: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Returns the output of checked arguments."""
    (B, T, C), K = x.shape, weight.shape[1]
    out = allocate_output(x.shape, dtype=x.dtype, device=x.device)
    tiles = short_conv_tiles(taps=K, is_backward=False, dtype=x.dtype, arch=architecture(x.device))
    segments = triton.cdiv(T, tiles.segment)
    if out.numel():
        states = kernel_input(x)
        with non_stop_arithmetic():
            forward_kernel[(_row_blocks(B * segments, tiles) * triton.cdiv(C, tiles.block_channels),)](
                states,
                kernel_input(weight).contiguous(),
                _kernel_mask(mask),
                out,
                states.stride(),
                B * segments,
                segments,
                T,
                C,
                TAPS=K,
                HAS_MASK=mask is not None,
                IS_EXACT=x.dtype == torch.float32,
                INDEX=index_dtype(B * segments),
                SEGMENT=tiles.segment,
                BLOCK_R=tiles.block_rows,
                BLOCK_C=tiles.block_channels,
                num_warps=tiles.num_warps,
                enable_fp_fusion=True,
            )
    return finish_output(out, dtype=x.dtype)


def launch_backward(
    x: torch.Tensor,
    weight: torch.Tensor,
    mask: torch.Tensor | None,
    out_gradient: torch.Tensor,
    *,
    of_weight: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Returns the gradients of x and, if wanted, of the weight."""
    (B, T, C), K = x.shape, weight.shape[1]
    gradient = allocate_output(x.shape, dtype=x.dtype, device=x.device)
    tiles = short_conv_tiles(taps=K, is_backward=True, dtype=x.dtype, arch=architecture(x.device))
    segments = triton.cdiv(T, tiles.segment)
    row_blocks = _row_blocks(B * segments, tiles)
    partials = torch.empty((row_blocks, K, C), dtype=torch.float32, device=x.device) if of_weight else None
    if gradient.numel():
        states, cotangents = kernel_input(x), kernel_input(out_gradient)
        with non_stop_arithmetic():
            backward_kernel[(row_blocks, triton.cdiv(C, tiles.block_channels))](
                states,
                kernel_input(weight).contiguous(),
                _kernel_mask(mask),
                cotangents,
                gradient,
                partials,
                states.stride(),
                cotangents.stride(),
                B * segments,
                segments,
                T,
                C,
                TAPS=K,
                HAS_MASK=mask is not None,
                HAS_WEIGHT_GRADIENT=of_weight,
                IS_EXACT=x.dtype == torch.float32,
                INDEX=index_dtype(B * segments),
                SEGMENT=tiles.segment,
                BLOCK_R=tiles.block_rows,
                BLOCK_C=tiles.block_channels,
                num_warps=tiles.num_warps,
                enable_fp_fusion=True,
            )
    weight_gradient = None if partials is None else partials.sum(0).t().to(weight.dtype).contiguous()
    return finish_output(gradient, dtype=x.dtype), weight_gradient


def _row_blocks(num_rows: int, tiles: ShortConvTiles) -> int:
    return -(-num_rows // tiles.block_rows)


def _kernel_mask(mask: torch.Tensor | None) -> torch.Tensor | None:
    """Returns a mask as kernels read it, one number per token: 2 T bytes beside the 2 T C of the input."""
    return None if mask is None else mask.to(torch.float32).contiguous()
