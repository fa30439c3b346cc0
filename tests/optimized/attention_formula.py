"""Softmax attention by its formula in float64, and one call of the kernels beside it.

Letters: B batch, T query tokens, S key tokens, H query heads, G key/value heads, D query/key head width, V value width.
"""

import math
from dataclasses import dataclass

import torch

from optimized.attention import attention
from tests.optimized.bounds import attention_bounds

__all__ = ["Case", "Comparison", "Tensors", "compare", "draw", "weights_and_lse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Shape and options of one call; ``key_mask`` hides a part of the keys, of the first batch entry all."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensors:
    """Inputs and cotangents of one call, in the storage format."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    sinks: torch.Tensor | None
    key_mask: torch.Tensor | None
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
    return Tensors(
        query=normal(case.B, case.T, case.H, case.D).to(dtype),
        key=normal(case.B, case.S, case.G, case.D).to(dtype),
        value=normal(case.B, case.S, case.G, case.V).to(dtype),
        sinks=normal(case.H) if case.with_sinks else None,
        key_mask=key_mask if case.with_key_mask else None,
        out_gradient=normal(case.B, case.T, case.H, case.V).to(dtype),
        lse_gradient=normal(case.B, case.H, case.T),
    )


def weights_and_lse(
    query: torch.Tensor,
    key: torch.Tensor,
    sinks: torch.Tensor | None,
    key_mask: torch.Tensor | None,
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
    exponentials = torch.where(visible, (torch.where(visible, query @ key.mT, 0.0) * scale).exp(), 0.0)
    denominator = exponentials.sum(-1)
    if sinks is not None:
        denominator = denominator + sinks.exp()[None, :, None]
    is_empty = denominator == 0
    safe = torch.where(is_empty, 1.0, denominator)
    return exponentials / safe[..., None], torch.where(is_empty, -math.inf, safe.log())


def compare(case: Case, tensors: Tensors, *, scale: float) -> list[Comparison]:
    """Runs the kernels and the formula, forward and backward, and returns every result beside its bound."""
    leaves = [tensors.query, tensors.key, tensors.value]
    leaves += [] if tensors.sinks is None else [tensors.sinks]
    inputs = [leaf.clone().requires_grad_() for leaf in leaves]
    sinks = inputs[3] if tensors.sinks is not None else None
    out, lse = attention(*inputs[:3], scale=scale, window=case.window, sinks=sinks, key_mask=tensors.key_mask)
    gradients = torch.autograd.grad([out, lse], inputs, [tensors.out_gradient, tensors.lse_gradient])

    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    groups = case.H // case.G
    query = exact[0].transpose(1, 2)
    key, value = (leaf.repeat_interleave(groups, 2).transpose(1, 2) for leaf in exact[1:3])
    exact_sinks = exact[3] if sinks is not None else None
    weights, expected_lse = weights_and_lse(query, key, exact_sinks, tensors.key_mask, scale=scale, window=case.window)
    expected_out = (weights @ value).transpose(1, 2)
    # An empty row's logsumexp is -inf and has no gradient.
    finite_lse = torch.where(expected_lse.isinf(), 0.0, expected_lse)
    cotangents = [tensors.out_gradient.double(), tensors.lse_gradient.double()]
    expected = torch.autograd.grad([expected_out, finite_lse], exact, cotangents, materialize_grads=True)

    no_sink = torch.full((case.H,), -math.inf, dtype=torch.float64)
    sink_logits = no_sink if exact_sinks is None else exact_sinks.detach()
    sink_weights = torch.where(expected_lse.isinf(), 0.0, (sink_logits[None, :, None] - finite_lse).exp())
    bounds = attention_bounds(
        query.detach(),
        key.detach(),
        value.detach(),
        weights.detach(),
        cotangents[0].transpose(1, 2),
        cotangents[1],
        sink_weights.detach(),
        scale=scale,
        dtype=tensors.query.dtype,
    )

    def per_group(bound: torch.Tensor) -> torch.Tensor:
        return bound.reshape(case.B, case.G, groups, *bound.shape[2:]).sum(2).transpose(1, 2)

    names = ("out", "lse", "query gradient", "key gradient", "value gradient", "sinks gradient")
    limits = (
        bounds.out.transpose(1, 2),
        bounds.lse,
        bounds.query.transpose(1, 2),
        per_group(bounds.key),
        per_group(bounds.value),
        bounds.sinks,
    )
    actual = (out.detach(), lse.detach(), *gradients)
    wanted = (expected_out.detach(), expected_lse.detach(), *expected)
    return [
        Comparison(name=name, actual=a, expected=e, bound=bound)
        for name, a, e, bound in zip(names, actual, wanted, limits, strict=False)
    ]
