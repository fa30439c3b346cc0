"""Softmax attention by its formula in float64, and one call of the kernels beside it.

Letters: B batch, T query tokens, S key tokens, H query heads, G key/value heads, D query/key head width, V value width.
"""

import math
from dataclasses import dataclass

import torch

from optimized.attention import attention
from tests.optimized.bounds import attention_bounds, unit_roundoff

__all__ = ["Case", "Comparison", "Tensors", "compare", "draw", "weights_and_lse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Shape and options of one call; ``key_mask`` hides a part of the keys, of the first batch entry all.

    ``bias`` is the shape of a bias, one entry in ten of which is -inf unless there is but one.
    """

    B: int = 1
    T: int
    S: int
    H: int = 2
    G: int = 2
    D: int = 40
    V: int = 24
    window: tuple[int | None, int | None] = (None, None)
    with_sinks: bool = False
    with_key_mask: bool = False
    bias: tuple[int, ...] | None = None
    bias_dtype: torch.dtype | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensors:
    """Inputs and cotangents of one call, in the storage format."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    sinks: torch.Tensor | None
    key_mask: torch.Tensor | None
    bias: torch.Tensor | None
    out_gradient: torch.Tensor
    lse_gradient: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One result of the kernels, its float64 value and the largest legal difference."""

    name: str
    actual: torch.Tensor
    expected: torch.Tensor
    bound: torch.Tensor

    def worst_ratio(self) -> float:
        """Returns the largest error over bound; infinite where only one of the two is finite."""
        assert self.actual.shape == self.expected.shape
        if not self.expected.numel():
            return 0.0
        actual = self.actual.double()
        same = actual == self.expected
        ratio = torch.where(same, 0.0, (actual - self.expected).abs() / self.bound)
        return float(ratio.nan_to_num(nan=math.inf).max())


def draw(case: Case, dtype: torch.dtype, *, seed: int = 0) -> Tensors:
    """Returns normal tensors of a case."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    key_mask = torch.rand(case.B, case.S, generator=generator) > 0.4
    if case.with_key_mask:
        key_mask[0] = False
    bias = None
    if case.bias is not None:
        bias = torch.randn(case.bias, generator=generator)
        is_hidden = torch.rand(case.bias, generator=generator) < 0.1
        bias = torch.where(is_hidden & (bias.numel() > 1), -math.inf, bias).to(case.bias_dtype or dtype)
    return Tensors(
        query=normal(case.B, case.T, case.H, case.D).to(dtype),
        key=normal(case.B, case.S, case.G, case.D).to(dtype),
        value=normal(case.B, case.S, case.G, case.V).to(dtype),
        sinks=normal(case.H) if case.with_sinks else None,
        key_mask=key_mask if case.with_key_mask else None,
        bias=bias,
        out_gradient=normal(case.B, case.T, case.H, case.V).to(dtype),
        lse_gradient=normal(case.B, case.H, case.T),
    )


def weights_and_lse(
    query: torch.Tensor,
    key: torch.Tensor,
    sinks: torch.Tensor | None,
    key_mask: torch.Tensor | None,
    bias: torch.Tensor | None,
    *,
    scale: float,
    window: tuple[int | None, int | None],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns softmax weights ``(B, H, T, S)`` and logsumexp ``(B, H, T)`` of expanded heads ``(B, H, tokens, D)``."""
    T, S = query.shape[2], key.shape[2]
    distance = torch.arange(S)[None, :] - (torch.arange(T)[:, None] + S - T)
    left, right = window
    visible = torch.ones(T, S, dtype=torch.bool)
    if left is not None:
        visible &= distance >= -left
    if right is not None:
        visible &= distance <= right
    if key_mask is not None:
        visible = visible & key_mask[:, None, None, :]
    logits = torch.where(visible, query @ key.mT, 0.0) * scale
    if bias is not None:
        visible = visible & (bias != -math.inf)
        logits = logits + torch.where(bias == -math.inf, 0.0, bias)
    exponentials = torch.where(visible, torch.where(visible, logits, 0.0).exp(), 0.0)
    denominator = exponentials.sum(-1)
    if sinks is not None:
        denominator = denominator + sinks.exp()[None, :, None]
    is_empty = denominator == 0
    safe = torch.where(is_empty, 1.0, denominator)
    return exponentials / safe[..., None], torch.where(is_empty, -math.inf, safe.log())


def compare(case: Case, tensors: Tensors, *, scale: float) -> list[Comparison]:
    """Runs the kernels and the formula, forward and backward, and returns every result beside its bound."""
    optional = {"sinks": tensors.sinks, "bias": tensors.bias}
    leaves = {"query": tensors.query, "key": tensors.key, "value": tensors.value}
    leaves |= {name: tensor for name, tensor in optional.items() if tensor is not None}
    inputs = {name: leaf.clone().requires_grad_() for name, leaf in leaves.items()}
    out, lse = attention(**inputs, scale=scale, window=case.window, key_mask=tensors.key_mask)
    gradients = torch.autograd.grad([out, lse], [*inputs.values()], [tensors.out_gradient, tensors.lse_gradient])
    actual = {"out": out.detach(), "lse": lse.detach(), **dict(zip(inputs, gradients, strict=True))}
    expected, bounds = _formula(case, tensors, leaves, scale=scale)
    return [
        Comparison(name=name, actual=result, expected=expected[name], bound=bounds[name])
        for name, result in actual.items()
    ]


def _formula(
    case: Case, tensors: Tensors, leaves: dict[str, torch.Tensor], *, scale: float
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Returns results and gradients in float64, and the bound of each."""
    exact = {name: leaf.detach().double().requires_grad_() for name, leaf in leaves.items()}
    groups = case.H // case.G
    query = exact["query"].transpose(1, 2)
    key, value = (exact[name].repeat_interleave(groups, 2).transpose(1, 2) for name in ("key", "value"))
    sinks, bias = exact.get("sinks"), exact.get("bias")
    weights, lse = weights_and_lse(query, key, sinks, tensors.key_mask, bias, scale=scale, window=case.window)
    out = (weights @ value).transpose(1, 2)
    # An empty row's logsumexp is -inf and has no gradient.
    finite_lse = torch.where(lse.isinf(), 0.0, lse)
    cotangents = [tensors.out_gradient.double(), tensors.lse_gradient.double()]
    gradients = torch.autograd.grad([out, finite_lse], [*exact.values()], cotangents, materialize_grads=True)
    expected = {"out": out.detach(), "lse": lse.detach(), **dict(zip(exact, gradients, strict=True))}

    sink_logits = torch.full((case.H,), -math.inf, dtype=torch.float64) if sinks is None else sinks.detach()
    num_summed = weights.numel() // max(1, bias.numel()) if bias is not None else 1
    bounds = attention_bounds(
        query.detach(),
        key.detach(),
        value.detach(),
        weights.detach(),
        cotangents[0].transpose(1, 2),
        cotangents[1],
        torch.where(lse.isinf(), 0.0, (sink_logits[None, :, None] - finite_lse).exp()).detach(),
        scale=scale,
        dtype=tensors.query.dtype,
        bias=None if bias is None else torch.where(bias.isinf(), 0.0, bias).detach(),
        num_summed=num_summed,
    )

    def per_group(bound: torch.Tensor) -> torch.Tensor:
        return bound.reshape(case.B, case.G, groups, *bound.shape[2:]).sum(2).transpose(1, 2)

    limits = {
        "out": bounds.out.transpose(1, 2),
        "lse": bounds.lse,
        "query": bounds.query.transpose(1, 2),
        "key": per_group(bounds.key),
        "value": per_group(bounds.value),
        "sinks": bounds.sinks,
    }
    if tensors.bias is not None:
        stored = 2 * unit_roundoff(tensors.bias.dtype) * expected["bias"].abs() + torch.finfo(tensors.bias.dtype).tiny
        limits["bias"] = bounds.logits.sum_to_size(tensors.bias.shape) + stored
    return expected, limits
