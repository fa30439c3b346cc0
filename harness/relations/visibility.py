"""Which token sees which: what non-interference and structural zeros follow from."""

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor

from harness.operations.base import Inputs
from harness.operations.case import Case
from harness.ops import operation

__all__ = ["HIDDEN_STILL_ASK", "TOKEN_INPUTS", "keys_of", "token_axis", "visibility"]

TOKEN_INPUTS: Mapping[str, tuple[str, ...]] = {
    "attention": ("key", "value"),
    "varlen_attention": ("key", "value"),
    "flash_sdpa": ("key_states", "value_states"),
    "gated_delta_rule": ("query", "key", "value", "log_decay", "beta"),
    "short_conv": ("x",),
    "gated_delta_net": ("hidden_states",),
    "grouped_query_attention": ("hidden_states",),
    "multi_head_latent_attention": ("hidden_states",),
}
"""By operation, the inputs that hold what other tokens may see."""

HIDDEN_STILL_ASK = frozenset({"grouped_query_attention", "multi_head_latent_attention"})
"""Layers in which a hidden token is still a query of its own."""

_MASKS: Mapping[str, str] = {"attention": "key_mask", "short_conv": "mask"}
_CAUSAL = frozenset({"short_conv", "gated_delta_rule", "gated_delta_net"})


def token_axis(op: str, name: str) -> int:
    """Returns the axis of the tokens of an input or output of an operation."""
    for output in operation(op).outputs:
        if output.name == name:
            return output.axes.index("token")
    return 0 if op == "varlen_attention" else 1


def keys_of(case: Case, inputs: Inputs) -> int:
    """Returns the number of tokens that can be seen."""
    return inputs.tensors[TOKEN_INPUTS[case.op][-1]].shape[token_axis(case.op, "")]


def visibility(case: Case, inputs: Inputs) -> Tensor:
    """Returns whether a token of the output sees a token of the inputs, ``(rows of the batch or 1, T, S)``.

    A bias that hides is left out: what it hides counts as seen.
    """
    if case.op == "varlen_attention":
        return _in_packs(inputs)
    keys = keys_of(case, inputs)
    left, right = _window(case)
    seen = _near(getattr(case, "query_tokens", keys), keys, left, right)[None]
    offsets = inputs.tensors.get("cu_seqlens")
    if offsets is not None:
        pack = torch.bucketize(torch.arange(keys), offsets[1:].long(), right=True)
        seen = seen & (pack[:, None] == pack)
    mask = inputs.tensors.get(_MASKS.get(case.op, "attention_mask"))
    if mask is None:
        return seen
    if case.op in HIDDEN_STILL_ASK:
        return seen & (mask[:, None] | torch.eye(keys, dtype=torch.bool))
    return seen & mask[:, None]


def _window(case: Case) -> tuple[int | None, int | None]:
    left, right = getattr(case, "window_left", None), getattr(case, "window_right", None)
    if case.op in _CAUSAL or getattr(case, "is_causal", False):
        right = 0
    if case.op == "short_conv":
        left = getattr(case, "taps", 1) - 1
    return getattr(case, "window_size", left), right


def _near(queries: int, keys: int, left: int | None, right: int | None) -> Tensor:
    """Returns which keys lie within a window around each query, bottom-right aligned."""
    distance = torch.arange(keys) - (torch.arange(queries) + keys - queries)[:, None]
    seen = torch.ones_like(distance, dtype=torch.bool)
    seen = seen if left is None else seen & (distance >= -left)
    return seen if right is None else seen & (distance <= right)


def _in_packs(inputs: Inputs) -> Tensor:
    seen = torch.zeros(inputs.tensors["query"].shape[0], inputs.tensors["key"].shape[0], dtype=torch.bool)
    starts = [inputs.tensors[name].tolist() for name in ("cu_seqlens_q", "cu_seqlens_k")]
    for (first, last), (begin, end) in zip(*map(itertools.pairwise, starts), strict=True):
        seen[first:last, begin:end] = _near(last - first, end - begin, *inputs.options["window"])
    return seen[None]
