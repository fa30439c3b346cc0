"""Softmax attention as a fused kernel does it: one pass forward, flash backward from the stored output and LSE.

Letters: ``K`` samples, ``B`` batch, ``T`` query tokens, ``S`` key tokens, ``H`` query heads, ``G`` key/value heads,
``R`` query heads per key/value head, ``D`` query/key head width, ``V`` value head width. Inside, the query heads of one
group are rows of one matrix, ``(K, B, G, R * T, D)``: their shared key gradient is then one accumulated sum, as in a
kernel.

Rounding points: ``scale``, ``scores`` (accumulated product, scaling, the exponent's argument and the exponential
itself), ``denominator``, ``lse``, ``weights`` (softmax weights as operand), ``out``, ``out.scaled``, ``out.stored``
(read again by the backward pass), ``delta`` (row sum of grad_out * out), ``scores.again`` and ``weights.again``
(recomputed, as operand of the value gradient), ``weights.grad``, ``scores.grad`` (operand of the query and key
gradients), ``query.grad``, ``key.grad``, ``value.grad``, ``sinks.grad``, ``bias.grad``. An eager recipe also stores
scores, weights and their gradients, and the gradient of each head of a group.

Source of the scheme: Dao et al. 2022, FlashAttention, algorithms 1 and 4; sinks as in gpt-oss.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.emulators.arithmetic import Arithmetic, shared
from harness.emulators.attention_layout import bias_rows, per_head, rows, sink_rows, unrows, visible
from harness.emulators.rounding import unit

__all__ = ["emulate"]

_TILES = (1, 2, 4, 16)
_GOLDEN = 0.6180339887498949
"""Lengths of pieces of keys whose scores err together."""


def emulate(arithmetic: Arithmetic, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns ``{"out": (K,B,T,H,V), "lse": (K,B,H,T)}`` before the final store, differentiable.

    Args:
        arithmetic: the recipe and what happens at its rounding points.
        tensors: ``query, key, value`` and, if given, ``sinks, bias`` with the sample axis, ``key_mask`` without.
        options: ``scale`` and ``window``.
    """
    out, lse = _Flash.apply(  # type: ignore[no-untyped-call]  # autograd.Function is untyped
        tensors["query"],
        tensors["key"],
        tensors["value"],
        _sinks(arithmetic, tensors),
        tensors.get("bias"),
        tensors.get("key_mask"),
        arithmetic,
        float(options["scale"]),
        tuple(options.get("window") or (None, None)),
    )
    return {"out": out, "lse": lse}


def _sinks(arithmetic: Arithmetic, tensors: Mapping[str, Tensor]) -> Tensor | None:
    """Returns the sinks as a kernel has them, perhaps times log2(e): two roundings in the accumulator's format."""
    if "sinks" not in tensors:
        return None
    return arithmetic.approximate("sinks", tensors["sinks"], 2 * unit(arithmetic.recipe.accumulator))


@dataclass(slots=True)
class _Saved:
    """What the backward pass reads: inputs in matrix layout, unnormalised weights, row statistics, stored output."""

    query: Tensor
    key: Tensor
    value: Tensor
    weights: Tensor
    stored_weights: Tensor | None
    row_scale: Tensor
    sink_weight: Tensor | None
    out: Tensor
    bias_shape: torch.Size | None
    arithmetic: Arithmetic
    scale: Tensor
    query_heads: int
    gauge: Callable[[], Tensor]


class _Flash(torch.autograd.Function):
    """Forward and flash backward with rounding points; the two passes share only what a kernel would store."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        sinks: Tensor | None,
        bias: Tensor | None,
        key_mask: Tensor | None,
        arithmetic: Arithmetic,
        scale: float,
        window: tuple[int | None, int | None],
    ) -> tuple[Tensor, Tensor]:
        heads, groups = query.shape[3], key.shape[3]
        factor = arithmetic.constant("scale", scale)
        queries, keys, values = rows(query, groups), rows(key, groups), rows(value, groups)
        biases = None if bias is None else bias_rows(bias, query, key)
        seen_keys = visible(query, key, key_mask, window)
        if biases is not None:
            seen_keys = seen_keys & (biases != -torch.inf)
        scores, gauge = _logits(arithmetic, queries, keys, biases, factor)
        logits = scores.masked_fill(~seen_keys, -torch.inf)
        sink_logits = None if sinks is None else sink_rows(sinks, query, groups)

        top = logits.amax(-1, keepdim=True) if keys.shape[-2] else logits.new_full((*logits.shape[:-1], 1), -torch.inf)
        if sink_logits is not None:
            top = torch.maximum(top, sink_logits)
        finite_top = torch.where(top == -torch.inf, 0.0, top)
        weights = logits.sub_(finite_top).exp_()
        # Where a sink is far above every score, such weights are all that a row has.
        kept = arithmetic.flushed("weights", weights)
        total = arithmetic.total("denominator", kept, -1, keepdim=True)
        if sink_logits is not None:
            total = total + torch.exp(sink_logits - finite_top)
        seen = total > 0
        safe_total = torch.where(seen, total, 1.0)
        lse = arithmetic.rounding.round(
            "lse", finite_top + safe_total.log(), arithmetic.recipe.accumulator, keeps_exact=False
        )
        # Normalised by the stored LSE: kernels that take exp(score - lse) err so, and those that divide err less.
        row_scale = torch.where(seen, torch.exp(finite_top - lse), 0.0)
        out, operand = _out(arithmetic, kept, row_scale, finite_top, values)
        ctx.saved = _Saved(  # type: ignore[attr-defined]  # contexts take any attribute
            query=queries, key=keys, value=values, weights=weights, stored_weights=operand,
            row_scale=row_scale,
            sink_weight=None if sink_logits is None else torch.exp(sink_logits - lse),
            out=arithmetic.rounding.round("out.stored", out, arithmetic.recipe.storage, keeps_exact=False),
            bias_shape=None if bias is None else bias.shape,
            arithmetic=arithmetic, scale=factor, query_heads=heads, gauge=gauge,
        )  # fmt: skip
        # A kernel in base two converts it: a constant that is rounded, and a product. Both lean one way for all rows.
        lse = arithmetic.rounding.approximate("lse.base", lse, 2 * unit(arithmetic.recipe.accumulator))
        lse = torch.where(seen, lse, -torch.inf)
        batch, tokens = query.shape[1:3]
        return (
            arithmetic.all_samples(unrows(out, tokens)),
            arithmetic.all_samples(lse.squeeze(-1).reshape(-1, batch, heads, tokens)),
        )

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved: _Saved = ctx.saved  # type: ignore[attr-defined]  # set in forward
        arithmetic, groups = saved.arithmetic, saved.key.shape[2]
        tokens = grads[0].shape[2]
        grad_out = rows(grads[0], groups)
        grad_lse = shared(grads[1]).reshape(-1, *grad_out.shape[1:-1], 1)
        gradients = _eager_gradients if saved.stored_weights is not None else _flash_gradients
        grad_query, grad_key, grad_value, grad_logits, delta = gradients(saved, grad_out, grad_lse, tokens)
        grad_sinks = None
        if saved.sink_weight is not None:
            pieces = -(saved.sink_weight * delta).reshape(delta.shape[0], -1, saved.query_heads, tokens)
            grad_sinks = arithmetic.total("sinks.grad", pieces, (1, 3))
        grad_bias = None
        if saved.bias_shape is not None:
            grad_bias = _bias_grad(arithmetic, grad_logits, saved.bias_shape, tokens)
        results = (unrows(grad_query, tokens), unrows(grad_key, -1), unrows(grad_value, -1), grad_sinks, grad_bias)
        return (*(None if item is None else arithmetic.all_samples(item) for item in results), None, None, None, None)


def _flash_gradients(saved: _Saved, grad_out: Tensor, grad_lse: Tensor, tokens: int) -> tuple[Tensor, ...]:  # noqa: ARG001 - one signature
    """Returns the gradients of query, key, value and logits, and the row sums ``delta``, as a fused kernel does it."""
    arithmetic = saved.arithmetic
    operand = arithmetic.round_operand("out.grad", grad_out)
    weights = _recomputed(saved)
    again = _round_weights(arithmetic, "weights.again", weights)
    grad_value = arithmetic.product("value.grad", again.transpose(-1, -2), operand)
    grad_weights = arithmetic.product("weights.grad", operand, saved.value.transpose(-1, -2))
    delta = arithmetic.total("delta", grad_out * saved.out, -1, keepdim=True) - grad_lse
    grad_logits = (grad_weights - delta).mul_(weights)
    grad_scores = arithmetic.rounding.round("scores.grad", grad_logits, arithmetic.recipe.operand, keeps_exact=False)
    grad_query = arithmetic.product("query.grad", grad_scores, saved.key) * saved.scale
    grad_key = arithmetic.product("key.grad", grad_scores.transpose(-1, -2), saved.query) * saved.scale
    return grad_query, grad_key, grad_value, grad_logits, delta


def _recomputed(saved: _Saved) -> Tensor:
    """Returns the softmax weights as the backward pass recomputes them: from scores with errors of their own.

    Another tiling of the same product errs otherwise, so that the error no longer cancels against the LSE. That weights
    are rounded to an operand's format hides it only where scores are small: at -77000, half a unit of a float32 score
    is 0.4 % of its weight.
    """
    # The gradient of a key that every query hardly sees is made of such small weights alone.
    weights = saved.arithmetic.flushed("weights.again", saved.weights * saved.row_scale)
    return _again_from_scores(saved, weights)


def _again_from_scores(saved: _Saved, weights: Tensor) -> Tensor:
    rounding, accumulator = saved.arithmetic.rounding, saved.arithmetic.recipe.accumulator
    return rounding.accumulate("scores.again", weights, lambda: saved.gauge() * weights, accumulator)


def _eager_gradients(saved: _Saved, grad_out: Tensor, grad_lse: Tensor, tokens: int) -> tuple[Tensor, ...]:
    """Returns the same where every tensor on the way is stored, and heads of a group are summed one by one.

    ``delta`` is the row sum of weights * grad_weights here, as in the backward pass of a softmax.
    """
    arithmetic, weights = saved.arithmetic, saved.stored_weights
    assert weights is not None, "an eager recipe stores its weights"
    keep = arithmetic.round_intermediate
    product = arithmetic.product("weights.grad", grad_out, saved.value.transpose(-1, -2))
    grad_weights = keep("weights.grad", product)
    delta = arithmetic.total("delta", weights * grad_weights, -1, keepdim=True) - grad_lse
    grad_logits = keep("scores.grad", (grad_weights - delta).mul_(weights))
    grad_scores = keep("scaled.grad", grad_logits * saved.scale)
    grad_query = arithmetic.product("query.grad", grad_scores, saved.key)

    def summed(point: str, left: Tensor, right: Tensor) -> Tensor:
        each = arithmetic.product(point, per_head(left, tokens).transpose(-1, -2), per_head(right, tokens))
        if each.shape[3] == 1:
            return each.squeeze(3)
        return arithmetic.total(f"{point}.group", keep(f"{point}.head", each), 3)

    grad_key = summed("key.grad", grad_scores, saved.query)
    grad_value = summed("value.grad", weights, grad_out)
    return grad_query, grad_key, grad_value, grad_logits, delta


def _logits(
    arithmetic: Arithmetic, queries: Tensor, keys: Tensor, bias: Tensor | None, scale: Tensor
) -> tuple[Tensor, Callable[[], Tensor]]:
    """Returns scaled scores plus bias, and their gauge; one noise covers product, scaling, exponent and exponential.

    An error ``e`` of an exponential is an error ``e`` of its argument, so that the whole way from the operands to the
    softmax weights needs one pass over the scores. It is drawn before the bias is added: keys that are equal give
    products that are equal, errors and all, whatever their bias.
    """
    left = arithmetic.round_operand("query", queries)
    right = arithmetic.round_operand("key", keys)
    finite_bias = None if bias is None else bias.clamp_min(-1e300)
    terms = left.shape[-1]
    value = (left @ right.transpose(-1, -2)) * scale

    def gauge() -> Tensor:
        squares = (left[:1] * left[:1]) @ (right[:1] * right[:1]).transpose(-1, -2)
        squares.mul_(scale[:1] ** 2 * terms / 2).add_(value[:1] ** 2, alpha=terms / 3 + 4.0)
        squares.add_((arithmetic.exp_error / unit(arithmetic.recipe.accumulator)) ** 2)
        if bias is not None:
            squares = squares + torch.where(bias[:1] == -torch.inf, 0.0, bias[:1]) ** 2
        return squares.sqrt_()

    if arithmetic.is_eager:
        scores = arithmetic.round_intermediate("scores", arithmetic.product("scores", left, right.transpose(-1, -2)))
        scores = arithmetic.round_intermediate("scores.scaled", scores * scale)
        if finite_bias is not None:
            scores = arithmetic.round_intermediate("scores.biased", scores + finite_bias)
        return scores, gauge
    key = _by_tile(arithmetic, value) if arithmetic.weights_format == arithmetic.recipe.accumulator else None
    scores = arithmetic.rounding.accumulate("scores", value, gauge, arithmetic.recipe.accumulator, key=key)
    return (scores if finite_bias is None else scores + finite_bias), gauge


def _by_tile(arithmetic: Arithmetic, scores: Tensor) -> Tensor:
    """Returns what the noise of the scores is drawn by: the score, in every other sample its tile of keys as well.

    Pieces of a matrix product may add in orders of their own, so that scores of equal keys differ from piece to piece:
    by single keys at the edges, by a few or by many elsewhere. Where all pieces agree, the error of equal keys cancels
    in the weights, so that one of the two alone would be too little. Rounded weights hide all of this.
    """
    keys = scores.shape[-1]
    lengths = [_TILES[sample // 2 % len(_TILES)] if sample % 2 else keys for sample in range(arithmetic.samples)]
    index = torch.arange(keys, dtype=torch.float64, device=scores.device)
    tiles = torch.stack([torch.div(index, max(length, 1), rounding_mode="floor") for length in lengths])
    return scores * (1 + tiles * 2.0**-12)[:, None, None, None]


def _out(
    arithmetic: Arithmetic, weights: Tensor, row_scale: Tensor, top: Tensor, values: Tensor
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Returns weights @ values, normalised before (eager) or after the product (fused).

    The second result is the weights as an eager implementation stores them; a fused one recomputes them.
    """
    operand = arithmetic.round_operand("value", values)
    if arithmetic.is_eager:
        stored = _round_weights(arithmetic, "weights", weights * row_scale)
        return arithmetic.product("out", stored, operand), stored
    shift = _shift(arithmetic, row_scale, top)
    rounded = _round_weights(arithmetic, "weights", weights * shift) / shift
    product = arithmetic.product("out", rounded, operand)
    scaled = arithmetic.rounding.round(
        "out.scaled", product * row_scale, arithmetic.recipe.accumulator, keeps_exact=False
    )
    return scaled, None


def _shift(arithmetic: Arithmetic, row_scale: Tensor, top: Tensor) -> Tensor:
    """Returns what the weights of each row are multiplied by when they are rounded.

    Kernels differ in what they subtract from the scores before the exponential: the maximum of the row, its LSE, or a
    maximum that lags behind. The samples take these in turn. The same in all of them would be wrong twice: weights
    of 1, which round to themselves, would err in every row alike or nowhere.
    """
    if arithmetic.samples == 1 or arithmetic.weights_format == arithmetic.recipe.accumulator:
        return torch.ones_like(row_scale[:1])
    kind = (torch.arange(arithmetic.samples, device=top.device) % 3).view(-1, *[1] * (row_scale.dim() - 1))
    lagging = torch.exp2(torch.frac(top.abs() * _GOLDEN))  # equal rows lag alike
    return torch.where(kind == 0, 1.0, torch.where((kind == 1) & (row_scale > 0), row_scale, lagging))


def _round_weights(arithmetic: Arithmetic, point: str, weights: Tensor) -> Tensor:
    """Returns softmax weights as an operand."""
    fmt = arithmetic.intermediates if arithmetic.is_eager else arithmetic.weights_format
    if fmt == arithmetic.recipe.accumulator:
        return weights
    return arithmetic.rounding.round(point, weights, fmt, keeps_exact=True)


def _bias_grad(arithmetic: Arithmetic, grad_logits: Tensor, shape: torch.Size, tokens: int) -> Tensor:
    """Returns the gradient of a bias that was broadcast, summed over what it was broadcast along."""
    samples, batch, groups, count, keys = grad_logits.shape
    full = grad_logits.reshape(samples, batch, groups * count // tokens, tokens, keys)
    padded = [1] * (5 - len(shape)) + list(shape[1:])
    axes = [axis for axis in range(1, 5) if padded[axis - 1] == 1 and full.shape[axis] != 1]
    summed = arithmetic.total("bias.grad", full, axes, keepdim=True) if axes else full
    return summed.reshape(samples, *shape[1:])
