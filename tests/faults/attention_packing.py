"""Faults of packed sequences.

Letters: H query heads, G key/value heads, R query heads per key/value head, D query/key head width.
"""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from harness.power.fault import Fault
from tests.faults.flash import Flash, tensor_core
from tests.faults.flash_forward import Problem
from tests.faults.seeding import Call, seeded
from tests.variants.correct import correct

__all__ = ["FAULTS"]


class _Expand(torch.autograd.Function):
    """Keys (tokens, G, D) for every query head; the backward pass sums them from slots in one workspace."""

    @staticmethod
    def forward(ctx: Any, keys: Tensor, offsets: Tensor, group: int, is_local: bool) -> Tensor:  # noqa: FBT001 - apply takes no keywords
        ctx.offsets, ctx.group, ctx.is_local = offsets.tolist(), group, is_local
        return keys.repeat_interleave(group, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        each = torch.unflatten(grads[0], 1, (-1, ctx.group))
        tokens = each.shape[0]
        # Room for the last slot of the last sequence, whatever its stride.
        workspace = torch.zeros(ctx.group * tokens + tokens, each.shape[1], each.shape[3])
        slots = [
            (start, stop, member * (stop - start if ctx.is_local else tokens) + start)
            for start, stop in itertools.pairwise(ctx.offsets)
            for member in range(ctx.group)
        ]
        for number, (start, stop, first) in enumerate(slots):
            workspace[first : first + stop - start] = each[start:stop, :, number % ctx.group]
        grad = torch.zeros_like(each[:, :, 0])
        for start, stop, first in slots:
            grad[start:stop] += workspace[first : first + stop - start]
        return grad, None, None, None


def _expanded(*, is_local: bool) -> Call:
    """Returns packed attention of expanded keys, whose slots are apart by the local or the total number of tokens."""
    base = correct("varlen_attention", "float32").load()

    def call(query: Tensor, key: Tensor, value: Tensor, starts_q: Tensor, starts_k: Tensor, **options: Any) -> Any:
        group = query.shape[1] // key.shape[1]
        keys = _Expand.apply(key.float(), starts_k, group, is_local)  # type: ignore[no-untyped-call]  # autograd.Function is untyped
        return base(query, keys, value.float().repeat_interleave(group, 1), starts_q, starts_k, **options)

    return call


class _AsManyTilesAs(Flash):
    """Of the key tiles, no more are visited than there are sequences.

    Args:
        sequences: number of sequences.
    """

    def __init__(self, sequences: int) -> None:
        super().__init__()
        self._sequences = sequences

    def tiles(self, problem: Problem) -> list[int]:
        return super().tiles(problem)[: self._sequences]


def _packed(flash_for: Callable[[int], Flash]) -> Call:
    """Returns packed attention, sequence by sequence, by the attention for that many sequences."""

    def call(
        query: Tensor, key: Tensor, value: Tensor, starts_q: Tensor, starts_k: Tensor,
        *, sinks: Tensor | None = None, **options: Any,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        attention = flash_for(len(starts_q) - 1).attention
        # In float32 from here on, so that their gradients are rounded after they are summed over the sequences.
        options["sinks"] = None if sinks is None else sinks.float()
        outs, sums = [], []
        pairs = zip(itertools.pairwise(starts_q.tolist()), itertools.pairwise(starts_k.tolist()), strict=True)
        for (first, last), (start, stop) in pairs:
            out, lse = attention(query[None, first:last], key[None, start:stop], value[None, start:stop], **options)
            outs.append(out[0])
            sums.append(lse[0])
        return torch.cat(outs), torch.cat(sums, -1)

    return call


def _boundaries_lost(base: Call) -> Call:
    """Returns packed attention whose offsets are made anew from a mask of ones."""

    def call(
        query: Tensor, key: Tensor, value: Tensor, starts_q: Tensor, starts_k: Tensor, **options: Any
    ) -> Any:  # fmt: skip
        return base(query, key, value, starts_q[[0, -1]], starts_k[[0, -1]], **options)

    return call


FAULTS: tuple[Fault, ...] = (
    seeded("B041a", "slots-overlap", "varlen_attention", lambda _: _expanded(is_local=True),
           base=lambda: _expanded(is_local=False),
           what="Partial key gradients lie apart by the length of a sequence instead of that of the pack.",
           source="flash-linear-attention 6b7df989", detectors=("GRAD", "MEM"), phase="gradient",
           reach={"query_lengths": (9, 7, 5), "key_lengths": (9, 7, 5), "group": 2}),
    seeded("B041b", "sequences-as-splits", "varlen_attention", lambda _: _packed(_AsManyTilesAs),
           base=lambda: _packed(lambda _: Flash()), recipe=tensor_core,
           what="The number of sequences is taken for the number of key tiles of each.",
           source="flash-linear-attention 0dfd7f5f", detectors=("VAL", "GRAD"),
           reach={"query_lengths": (5, 9), "key_lengths": (5, 40), "window_left": None}),
    seeded("B043", "boundaries-lost", "varlen_attention", _boundaries_lost,
           what="Offsets of packed documents are replaced by those of one document.",
           source="flash-linear-attention #838", detectors=("META", "VAL"),
           reach={"query_lengths": (7, 9), "key_lengths": (7, 9)}),
)  # fmt: skip
