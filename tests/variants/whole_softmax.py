"""Legal executions of softmax attention that keep all scores in memory, in float32, their gradients by autograd.

Letters: B batch, T query tokens, S key tokens, H query heads, G key/value heads, R query heads per key/value head.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from tests.variants.flash_layout import visible_keys

__all__ = ["make_whole_attention"]


def make_whole_attention(
    *, normalises_last: bool = False, is_by_head: bool = False, scales_query: bool = False, shift: str = "max"
) -> Callable[..., tuple[Tensor, Tensor]]:
    """Returns ``attention`` with one softmax over all keys; nothing is rounded before the results.

    Args:
        normalises_last: whether the product with the values is divided by the denominator, instead of the weights.
        is_by_head: whether query heads are taken one after the other, and the gradients of a group's keys are summed
            over them.
        scales_query: whether the queries are scaled, instead of the scores.
        shift: ``max`` subtracts the largest logit of a row, ``lse`` its log denominator.
    """

    def attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scale: float,
        window: tuple[int | None, int | None] = (None, None),
        sinks: Tensor | None = None,
        key_mask: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        (B, T, H, _), (S, G) = query.shape, key.shape[1:3]
        visible = visible_keys(T, S, window, key_mask)
        wide = None if bias is None else bias.float().expand(B, H, T, S)
        sink = torch.full((H,), -torch.inf) if sinks is None else sinks.float()
        size = 1 if is_by_head else H // G
        queries, keys, values = (x.float().transpose(1, 2) for x in (query, key, value))
        outs, sums = [], []
        for first in range(0, H, size):
            chosen, group = slice(first, first + size), first // (H // G)
            left = queries[:, chosen] * (scale if scales_query else 1.0)
            scores = left @ keys[:, group : group + 1].mT * (1.0 if scales_query else scale)
            scores = scores if wide is None else scores + wide[:, chosen]
            scores = scores if visible is None else scores.masked_fill(~visible, -torch.inf)
            weights, total, lse = _softmax(scores, sink[chosen, None, None], shift)
            product = (weights if normalises_last else weights / total) @ values[:, group : group + 1]
            outs.append(product / total if normalises_last else product)
            sums.append(lse)
        return torch.cat(outs, 1).transpose(1, 2).to(query.dtype), torch.cat(sums, 1)

    return attention


def _softmax(scores: Tensor, sink: Tensor, shift: str) -> tuple[Tensor, Tensor, Tensor]:
    """Returns weights (B, R, T, S), what they are still to be divided by (B, R, T, 1), and the LSE (B, R, T)."""
    all_scores = torch.cat((scores, sink.expand(*scores.shape[:-1], 1)), -1)
    top = all_scores.detach().amax(-1, keepdim=True)
    is_seen = top > -torch.inf
    finite = torch.where(is_seen, top, 0.0)
    weights = torch.exp(all_scores - finite)
    total = torch.where(is_seen, weights.sum(-1, keepdim=True), 1.0)
    lse = torch.where(is_seen, finite + total.log(), -torch.inf)
    if shift == "lse":
        weights = torch.exp(all_scores - torch.where(is_seen, lse, 0.0))
        total = torch.ones_like(total)
    return weights[..., :-1], total, lse.squeeze(-1)
