"""Legal executions of the short convolution: the taps in several orders and layouts, SiLU in several forms.

All of them compute in float32 and round once. Letters: B batch, T tokens, C channels, J taps.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from tests.variants.gates import silu
from tests.variants.sums import ORDERS

__all__ = ["make_short_conv"]


def make_short_conv(taps: str, logistic: str) -> Callable[..., Tensor]:
    """Returns ``short_conv``.

    Args:
        taps: how taps are summed: ``unfolded`` (one product of windows and taps), ``grouped`` (torch's convolution),
            ``tap-major`` (a plane per tap), ``fused`` (multiply-add, products not rounded), or an order of ``sums``.
        logistic: see ``gates.silu``.
    """

    def short_conv(x: Tensor, weight: Tensor, *, mask: Tensor | None = None) -> Tensor:
        wide = x.float() if mask is None else x.float() * mask.unsqueeze(-1)
        padded = functional.pad(wide, (0, 0, weight.shape[1] - 1, 0))
        return silu(_summed(padded, weight.float(), taps), logistic).to(x.dtype)

    return short_conv


def _summed(padded: Tensor, weight: Tensor, taps: str) -> Tensor:
    """Returns ``sum_j weight[c, j] padded[t + j, c]``, (B, T, C)."""
    C, J = weight.shape
    windows = padded.unfold(1, J, 1)
    if taps == "unfolded":
        return torch.einsum("btcj,cj->btc", windows, weight)
    if taps == "grouped":
        return functional.conv1d(padded.mT, weight.unsqueeze(1), groups=C).mT
    if taps == "tap-major":
        planes = torch.stack([padded[:, tap : tap + windows.shape[1]] for tap in range(J)])
        return (planes * weight.mT[:, None, None]).sum(0)
    if taps == "fused":
        total = torch.zeros_like(windows[..., 0])
        for tap in range(J):
            total = (windows[..., tap].double() * weight[:, tap].double() + total.double()).float()
        return total
    return ORDERS[taps](windows * weight).squeeze(-1)
