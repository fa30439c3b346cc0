"""Faults around a right attention: arguments that are misread, indices that are too narrow, kernels built for others.

Letters: B batch, T query tokens, S key tokens, H query heads, G key/value heads, R query heads per key/value head,
D query/key head width.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from harness.power.fault import Fault
from tests.faults.seeding import Call, seeded
from tests.variants.correct import correct
from tests.variants.wrong_formulas import lse_base_two, scaled_option, window_off_by_one

__all__ = ["FAULTS"]


def _plain(op: str = "attention") -> Call:
    """Returns the plain implementation, which is the same for all storage dtypes."""
    return correct(op, "float32").load()


def _mask_added(base: Call) -> Call:
    """Returns attention that adds a boolean mask to the logits as 0 and 1."""

    def call(
        *args: Any, key_mask: Tensor | None = None, bias: Tensor | None = None, **kwargs: Any
    ) -> Any:  # fmt: skip
        if key_mask is None:
            return base(*args, bias=bias, **kwargs)
        added = key_mask.float()[:, None, None, :]
        return base(*args, bias=added if bias is None else bias.float() + added, **kwargs)

    return call


def _bias_as_mask(base: Call) -> Call:
    """Returns attention that takes an additive bias for a mask: what is not 0 may be seen."""

    def call(*args: Any, bias: Tensor | None = None, **kwargs: Any) -> Any:
        if bias is None:
            return base(*args, **kwargs)
        attached = bias.masked_fill(bias.isinf(), 0.0) * 0.0
        return base(*args, bias=attached.masked_fill(~bias.bool(), -torch.inf), **kwargs)

    return call


def _gathered(dtype: torch.dtype) -> Call:
    """Returns attention that looks every key up by its offset in memory, kept as an integer of a width."""
    base = _plain()

    def call(query: Tensor, key: Tensor, value: Tensor, **kwargs: Any) -> Any:
        width = key.shape[-1]
        offsets = (torch.arange(key.numel() // width) * width).to(dtype).long() % key.numel()
        return base(query, key.reshape(-1, width)[offsets // width].reshape(key.shape), value, **kwargs)

    return call


def _programs_of_three_bits(base: Call) -> Call:
    """Returns attention in which the number of a batch's head has three bits."""

    def call(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        out, lse = base(*args, **kwargs)
        B, H, T = lse.shape
        program = torch.arange(B * H) & 7
        rows = out.transpose(1, 2).reshape(B * H, T, -1)[program]
        return rows.reshape(B, H, T, -1).transpose(1, 2), lse.reshape(B * H, T)[program].reshape(B, H, T)

    return call


def _is_head_major(x: Tensor) -> bool:
    return x.stride(1) < x.stride(2)


def _built(key: Callable[[Tensor], object]) -> Call:
    """Returns attention by kernels that are built for an order of tokens and heads in memory, and kept by a key."""
    base, orders = _plain(), dict[object, bool]()

    def read(x: Tensor) -> Tensor:
        order = orders.setdefault(key(x), _is_head_major(x))
        if order == _is_head_major(x):
            return x.as_strided(x.shape, x.stride(), x.storage_offset())
        T, H, D = x.shape[1:]
        strides = (T * H * D, D, T * D, 1) if order else (T * H * D, H * D, D, 1)
        return x.as_strided(x.shape, strides, x.storage_offset())

    return lambda *args, **kwargs: base(*(read(item) for item in args), **kwargs)


def _by_layout(x: Tensor) -> object:
    return x.shape, x.stride()


def _by_shape(x: Tensor) -> object:
    return x.shape


def _warmed_up(_: Call) -> Call:
    """Returns attention whose kernels are built for a contiguous tensor of the same shape before the first call."""
    call = _built(_by_shape)

    def warmed(*args: Tensor, **kwargs: Any) -> Any:
        with torch.no_grad():
            call(*(torch.zeros(item.shape, dtype=item.dtype) for item in args), **kwargs)
        return call(*args, **kwargs)

    return warmed


def _mapped(op: str, head_of: Callable[[Tensor, int, int], Tensor]) -> Call:
    """Returns an attention that copies the key/value head of every query head; heads are the last axis but one.

    Args:
        op: the operation.
        head_of: key/value heads of query heads, given those, G and R.
    """
    base = _plain(op)

    def call(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **kwargs: Any) -> Any:
        H, G = query.shape[-2], key.shape[-2]
        index = head_of(torch.arange(H), G, H // G)
        return base(query, key.float()[..., index, :], value.float()[..., index, :], *rest, **kwargs)

    return call


def _repeated(head: Tensor, groups: int, group: int) -> Tensor:
    del groups
    return head // group


def _tiled(head: Tensor, groups: int, group: int) -> Tensor:
    del group
    return head % groups


def _right_off_by_one(base: Call) -> Call:
    """Returns attention whose right window has a key too many."""

    def call(*args: Any, window: tuple[int | None, int | None] = (None, None), **kwargs: Any) -> Any:
        left, right = window
        return base(*args, window=(left, None if right is None else right + 1), **kwargs)

    return call


def _left_plus_one(base: Call) -> Call:
    """Returns attention whose left window has a key too many."""

    def call(*args: Any, window: tuple[int | None, int | None] = (None, None), **kwargs: Any) -> Any:
        left, right = window
        return base(*args, window=(None if left is None else left + 1, right), **kwargs)

    return call


def _window_size_with_self(base: Call) -> Call:
    """Returns the layer whose window counts the token itself."""

    def call(*args: Any, window_size: int | None = None, **kwargs: Any) -> Any:
        return base(*args, window_size=None if window_size is None else window_size - 1, **kwargs)

    return call


def _scaled_out(factors: Callable[[int], Tensor]) -> Call:
    """Returns attention whose float32 output is multiplied by a factor per head before it is stored."""
    base = _plain()

    def call(query: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        out, lse = base(query.float(), *args, **kwargs)
        return (out * factors(out.shape[2])[:, None]).to(query.dtype), lse

    return call


def _last_head(factor: float) -> Callable[[int], Tensor]:
    return lambda heads: torch.where(torch.arange(heads) == heads - 1, factor, 1.0)


def _key_weighted(base: Call) -> Call:
    """Returns attention that gives the key in the middle a weight 5 % too large before it normalises."""

    def call(
        query: Tensor, key: Tensor, value: Tensor, *, bias: Tensor | None = None, **kwargs: Any
    ) -> Any:  # fmt: skip
        extra = torch.zeros(1, 1, 1, key.shape[1])
        extra[..., key.shape[1] // 2] = math.log(1.05)
        return base(query, key, value, bias=extra if bias is None else bias.float() + extra, **kwargs)

    return call


_MANY_HEADS = {"key_heads": 2, "group": 2}
_SMALL = {"batch": 1, "key_heads": 1, "group": 1, "head_dim": 16, "value_dim": 16}

FAULTS: tuple[Fault, ...] = (
    seeded("B005a", "mask-added-as-number", "attention", _mask_added,
           what="A boolean mask is added to the logits as 0 and 1, which hides nothing.",
           source="speculators #691", detectors=("VAL", "META"), reach={"key_mask": True, "key_tokens": 9}),
    seeded("B005b", "bias-as-mask", "attention", _bias_as_mask,
           what="An additive bias is cast to a boolean mask, so that what it hides is seen.",
           source="transformers #38094", detectors=("VAL", "META"), reach={"bias": "full"}),
    seeded("B007a", "offset-in-16-bits", "attention", lambda _: _gathered(torch.int16),
           base=lambda: _gathered(torch.int64),
           what="Offsets of keys wrap around at the width of their integer.",
           source="flash-attention 7052e212", detectors=("VAL", "MEM"),
           reach={"batch": 2, "key_tokens": 40, "key_heads": 2, "head_dim": 256}),
    seeded("B007b", "program-in-3-bits", "attention", _programs_of_three_bits,
           what="The number of a program over batches and heads wraps around, so that later heads repeat earlier ones.",
           source="pytorch #142228", detectors=("VAL",), reach={"batch": 2, "key_heads": 2, "group": 3}),
    seeded("B010a", "built-for-contiguous", "attention", _warmed_up, base=lambda: _built(_by_layout),
           what="A kernel built on contiguous tensors is replayed for others of their shape.",
           source="flashinfer #4270", detectors=("VAL", "META"),
           reach={"layout": "transposed", "query_tokens": 9, "key_tokens": 9, "key_heads": 2}),
    seeded("B010b", "built-for-another-call", "attention", lambda _: _built(_by_shape),
           base=lambda: _built(_by_layout),
           what="A kernel is kept by the shape alone, so that a second layout gets the first one's.",
           source="flash-attention be76c60f", detectors=("META", "VAL"),
           reach={**_SMALL, "query_tokens": 9, "key_tokens": 9, "key_heads": 2}),
    seeded("B013a", "lse-base-two", "attention", lse_base_two,
           what="The LSE is a logarithm to base 2.", source="pytorch #181645", detectors=("VAL", "META")),
    seeded("B032a", "window-counts-itself", "attention", window_off_by_one,
           what="The left window counts the token itself and so lacks a key.",
           source="transformers #39408", detectors=("VAL", "META"), reach={"window_left": 2, "key_tokens": 9}),
    seeded("B032b", "window-a-key-more", "attention", _left_plus_one,
           what="The left window has one key too many.",
           source="xformers #923", detectors=("VAL", "META"), reach={"window_left": 2, "key_tokens": 9}),
    seeded("B032c", "future-visible", "attention", _right_off_by_one,
           what="The right window has one key too many, so that a causal row sees the next token.",
           source="zml #763", detectors=("VAL", "META"), reach={"window_right": 0, "query_tokens": 9, "key_tokens": 9}),
    seeded("B032d", "window-counts-itself", "flash_sdpa", _window_size_with_self,
           what="The window of the layer counts the token itself and so lacks a key.",
           source="vllm #3385", detectors=("VAL", "META"),
           reach={"is_causal": True, "window_size": 2, "key_tokens": 9}),
    *(seeded(f"B038{letter}", "heads-tiled", op, lambda _, op=op: _mapped(op, _tiled),  # type: ignore[misc]  # a default binds the loop's value
             base=lambda op=op: _mapped(op, _repeated),  # type: ignore[misc]
             what="Key/value heads are tiled over the query heads instead of repeated.",
             source=source, detectors=("VAL", "META"), reach=_MANY_HEADS)
      for letter, op, source in (("a", "attention", "axlearn #842"), ("b", "varlen_attention", "onnx #7274"),
                                 ("c", "flash_sdpa", "jax-js #180"))),
    seeded("X001", "scale-0.1-percent", "attention", scaled_option("scale", 1.001),
           what="The softmax scale is 0.1 % too large.", source="issue of attest", detectors=("VAL", "GRAD")),
    seeded("X003", "window-of-1000-off-by-one", "attention", window_off_by_one,
           what="A left window of 1000 keys lacks the last of them.", source="issue of attest",
           detectors=("VAL", "META"),
           reach={**_SMALL, "query_tokens": 4, "key_tokens": 1040, "window_left": 1000, "window_right": 0}),
    seeded("X004", "gain-0.01-percent", "attention", lambda _: _scaled_out(lambda _: torch.tensor([1.0001])),
           base=lambda: _scaled_out(lambda _: torch.tensor([1.0])),
           what="The output is 0.01 % too large before it is rounded.", source="issue of attest", detectors=("VAL",)),
    seeded("X005", "head-0.5-percent", "attention", lambda _: _scaled_out(_last_head(1.005)),
           base=lambda: _scaled_out(_last_head(1.0)),
           what="The output of one head is 0.5 % too large before it is rounded.", source="issue of attest",
           detectors=("VAL",), reach={"key_heads": 2}),
    seeded("X006", "key-weight-5-percent", "attention", _key_weighted,
           what="One key weighs 5 % too much.", source="issue of attest", detectors=("VAL", "GRAD")),
)  # fmt: skip
