"""Which query sees which key, as other projects want to be told: the one place where our windows become theirs.

Our window ``(left, right)`` is aligned at the bottom right: query t stands at key position ``t + (S - T)``. torch's
causal flag is aligned at the top left, which is the same for T = S alone. transformers counts the token itself into its
``sliding_window``, so that W there is ``(W - 1, 0)`` here.

Letters: B batch, T query tokens, S key tokens.
"""

import torch
from torch import Tensor

__all__ = ["additive", "is_causal", "rows_with_keys", "visible"]

Window = tuple[int | None, int | None]


def is_causal(query: Tensor, key: Tensor, window: Window) -> bool:
    """Returns whether torch's own causal flag means this window, for tensors with the tokens on axis 1."""
    return tuple(window) == (None, 0) and query.shape[1] == key.shape[1]


def visible(query: Tensor, key: Tensor, window: Window, key_mask: Tensor | None) -> Tensor | None:
    """Returns a boolean mask (1 or B, 1, T, S), True where a key may be seen, or None where all may."""
    left, right = window
    if left is None and right is None and key_mask is None:
        return None
    T, S = query.shape[1], key.shape[1]
    place = torch.arange(T, device=query.device)[:, None] + (S - T)
    keys = torch.arange(S, device=query.device)[None, :]
    seen = torch.ones(T, S, dtype=torch.bool, device=query.device)
    if left is not None:
        seen &= keys >= place - left
    if right is not None:
        seen &= keys <= place + right
    return seen[None, None] if key_mask is None else seen[None, None] & key_mask[:, None, None, :]


def additive(seen: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Returns a mask as transformers' eager code wants it: 0 where a key may be seen, the lowest number elsewhere."""
    if seen is None:
        return None
    lowest = torch.finfo(dtype).min
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, lowest)


def rows_with_keys(out: Tensor, seen: Tensor | None) -> Tensor:
    """Returns attention's result ``(B, T, ...)`` with 0 in the rows that see no key.

    There the meaning differs: the result is 0 here, the mean of all values in transformers' eager code, NaN in d9d's.
    """
    if seen is None:
        return out
    any_key = seen.any(-1)[:, 0]
    return torch.where(any_key.reshape(*any_key.shape, *[1] * (out.dim() - 2)), out, 0.0)
