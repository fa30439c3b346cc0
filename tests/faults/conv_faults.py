"""Faults of the short convolution. Letters: B batch, T tokens, C channels."""

from typing import Any

import torch
from torch import Tensor

from harness.power.fault import Fault
from optimized.eager.short_conv import masked, short_conv
from tests.faults.gradient_paths import passed
from tests.faults.seeding import Call, seeded

__all__ = ["FAULTS"]


def _contiguous_gradient(base: Call) -> Call:
    """Returns the convolution whose backward pass takes the gradient of its result for contiguous."""

    def misread(grad: Tensor) -> Tensor:
        strides = torch.empty(grad.shape, device="meta").stride()
        return torch.as_strided(grad, grad.shape, strides, grad.storage_offset()).clone()

    return lambda *args, **kwargs: passed(base(*args, **kwargs), misread)


def _mask_of_batches(base: Call) -> Call:
    """Returns the convolution that heeds its mask only where there is more than one row."""
    return lambda x, weight, *, mask=None: base(x, weight, mask=mask if x.shape[0] > 1 else None)


def _token_late(base: Call) -> Call:
    """Returns the convolution whose last tap is that of the token before the current one."""

    def call(x: Tensor, weight: Tensor, *, mask: Tensor | None = None) -> Any:
        seen = x if mask is None else masked(x, mask)
        return base(torch.cat([torch.zeros_like(seen[:, :1]), seen[:, :-1]], 1), weight)

    return call


def _scattered(base: Call, *, is_guarded: bool) -> Call:
    """Returns the convolution of a workspace of rows, in which masked tokens have the row -1.

    Args:
        base: the convolution.
        is_guarded: whether nothing is stored at row -1.
    """

    def call(x: Tensor, weight: Tensor, *, mask: Tensor | None = None) -> Any:
        if mask is None:
            return base(x, weight)
        kept = torch.empty(x.shape, dtype=x.dtype).zero_()
        if not is_guarded and not bool(mask.all()):
            channels = x.shape[-1]
            torch.as_strided(kept, (channels,), (1,), kept.storage_offset() - channels).zero_()
        return base(kept + masked(x, mask), weight)

    return call


def _guarded() -> Call:
    return _scattered(short_conv, is_guarded=True)


FAULTS: tuple[Fault, ...] = (
    seeded("B062a", "transposed-gradient", "short_conv", _contiguous_gradient,
           what="The gradient of the result is read as if it were contiguous, though heads come before tokens in it.",
           source="flash-linear-attention #871", detectors=("GRAD",), phase="gradient",
           reach={"layout": "transposed", "cotangent": "normal"}),
    seeded("B062b", "sliced-gradient", "short_conv", _contiguous_gradient,
           what="The gradient of the result is read as if it were contiguous, though it is a slice of a wider one.",
           source="flash-linear-attention #1139", detectors=("GRAD", "NAN"), phase="gradient",
           reach={"layout": "fused", "cotangent": "normal"}),
    seeded("B064a", "mask-of-batches", "short_conv", _mask_of_batches,
           what="Padding is zeroed only in batches of more than one row.",
           source="transformers #46773", detectors=("VAL", "META"), reach={"mask": True, "batch": 1}),
    seeded("B088b", "row-before-first", "short_conv", lambda _: _scattered(short_conv, is_guarded=False),
           base=_guarded, what="Masked tokens have the index -1, and a row of zeros is stored there.",
           source="flash-linear-attention b67113b4", detectors=("MEM",), reach={"mask": True}),
    seeded("Y006", "taps-shifted", "short_conv", _token_late,
           what="Each tap is that of the token before its own.", source="planted", detectors=("VAL",)),
)  # fmt: skip
