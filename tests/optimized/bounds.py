"""Error bounds for the tests of the fast versions: unit roundoffs times the magnitudes of the terms.

Letters: B batch, T query tokens, S key tokens, H query heads, D query/key head width, V value head width.
"""

from dataclasses import dataclass

import torch

__all__ = ["AttentionBounds", "attention_bounds", "rms_norm_bounds", "unit_roundoff"]


def unit_roundoff(dtype: torch.dtype) -> float:
    """Returns the largest relative error of rounding to nearest in ``dtype``."""
    return torch.finfo(dtype).eps / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionBounds:
    """Largest legal absolute error of every result of attention, one tensor per result, of the result's shape.

    ``logits`` is that of the gradient of every logit, ``(B, H, T, S)``, before it is rounded as an operand, together
    with its part of a sum over ``num_summed`` of them.
    """

    out: torch.Tensor
    lse: torch.Tensor
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    sinks: torch.Tensor
    logits: torch.Tensor


def attention_bounds(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    weights: torch.Tensor,
    out_gradient: torch.Tensor,
    lse_gradient: torch.Tensor,
    sink_weights: torch.Tensor,
    *,
    scale: float,
    dtype: torch.dtype,
    bias: torch.Tensor | None = None,
    num_summed: int = 1,
) -> AttentionBounds:
    """Returns first-order bounds of attention whose heads are all expanded, ``query (B, H, T, D)``, in float64.

    A logit is a sum of D products in float32, is multiplied by ``scale`` and may get a bias: it is off by at most
    ``(D + 8) u32 (|scale| sum_d |q_d k_d| + |bias|)``; the logsumexp adds S + 8 roundings relative to its own size and
    1. The weights ``p`` (B, H, T, S) inherit this as a relative error, and are rounded to the storage format once, as
    dS is. Every sum of n terms adds ``n u32`` times the sum of their magnitudes, every stored result ``u`` times
    itself. The factor 2 stands for the terms of second order and for results stored below the smallest normal number.
    """
    u32, u = unit_roundoff(torch.float32), unit_roundoff(dtype)
    S, D, T, V = key.shape[2], query.shape[3], query.shape[2], value.shape[3]
    tiny = torch.finfo(dtype).tiny
    logits = query.abs() @ key.abs().mT * abs(scale)
    if bias is not None:
        logits = logits + bias.abs()
    # The weights carry the error of their own logit and that of the logsumexp, which is at most the largest of a row.
    visible_logits = torch.where(weights > 0, logits, 0.0)
    largest = visible_logits.amax(-1, keepdim=True) if S else visible_logits.new_zeros((*weights.shape[:3], 1))
    relative = 2 * (D + 16) * u32 * (largest + 1) + (S + 8) * u32
    out_scale = weights @ value.abs()
    out = (relative + S * u32 + 2 * u) * out_scale
    lse = relative.squeeze(-1) + u32 * (largest.squeeze(-1) + 1)
    value_gradient = (weights * (relative + T * u32 + 2 * u)).mT @ out_gradient.abs()
    # dS = p (dP - delta): dP and delta are sums of V products, delta also of the error of the stored output.
    product = out_gradient.abs() @ value.abs().mT
    delta = (out_gradient.abs() * out_scale).sum(-1, keepdim=True) + lse_gradient.abs()[..., None]
    delta_error = (out_gradient.abs() * out).sum(-1, keepdim=True) + (V + 4) * u32 * delta
    logit_gradient = weights * ((relative + (V + 4) * u32 + 2 * u) * (product + delta) + delta_error)
    accumulated = weights * (product + delta)
    unrounded = weights * ((relative + (V + 4) * u32) * (product + delta) + delta_error)
    logits_gradient = unrounded + num_summed * u32 * accumulated
    query_gradient = abs(scale) * (logit_gradient + (S + 2 * D) * u32 * accumulated) @ key.abs()
    key_gradient = abs(scale) * (logit_gradient + (T + 2 * D) * u32 * accumulated).mT @ query.abs()
    sink_rows = sink_weights * (
        (relative.squeeze(-1) + T * u32 + 4 * u32) * delta.squeeze(-1) + delta_error.squeeze(-1)
    )
    return AttentionBounds(
        out=2 * out + tiny,
        lse=2 * lse + tiny,
        query=2 * query_gradient + tiny,
        key=2 * key_gradient + tiny,
        value=2 * value_gradient + tiny,
        sinks=2 * sink_rows.sum((0, 2)) + tiny,
        logits=2 * logits_gradient,
    )


def rms_norm_bounds(
    x: torch.Tensor,
    factor: torch.Tensor,
    out_gradient: torch.Tensor,
    *,
    eps: float,
    dtype: torch.dtype,
    weight_dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns bounds of the output, the gradient of x and that of the weight, of float64 arguments.

    The inverse root carries the C + 4 float32 roundings of a sum of C squares; a product adds one, the mean of the
    backward pass C + 4 more, a sum over rows one a row, and every stored result one rounding of its format. The two
    terms of the gradient of x may cancel: the bound uses the sum of their magnitudes.
    """
    u32, u, u_weight = (unit_roundoff(each) for each in (torch.float32, dtype, weight_dtype))
    C, num_rows = x.shape[-1], x[..., 0].numel()
    inverse_rms = (x.square().mean(-1, keepdim=True) + eps).rsqrt()
    normalised = (x * inverse_rms).abs()
    root = (C + 4) * u32
    out = (root + 4 * u32 + u) * normalised * factor.abs()
    scaled = (out_gradient * factor).abs()
    terms = inverse_rms * (scaled + normalised * (scaled * normalised).mean(-1, keepdim=True))
    products = (
        (out_gradient.abs() * normalised).flatten(0, -2).sum(0) if x.ndim > 1 else out_gradient.abs() * normalised
    )
    x_gradient = (3 * root + (C + 8) * u32 + u) * terms
    weight_gradient = (root + (num_rows + 4) * u32 + u_weight) * products
    tiny = torch.finfo(dtype).tiny
    return out + tiny, x_gradient + tiny, weight_gradient + tiny
