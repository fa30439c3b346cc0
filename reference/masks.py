"""Which keys a query may see.

Legend: T query tokens, S key tokens.
"""

import torch
from torch import Tensor

__all__ = ["Window", "require_window", "visible_pairs"]

Window = tuple[int | None, int | None]
"""Keys to the left and to the right of a token that it sees beside its own; ``None`` is unbounded."""


def visible_pairs(
    T: int, S: int, *, window: Window, device: torch.device, rows: slice = slice(None)
) -> Tensor:  # fmt: skip
    """Returns the pairs of query and key that a window allows, a boolean ``(T, S)``, or those of some ``rows`` of it.

    Definition:
        Query ``t`` sits at key position ``t + (S - T)``: the last query is aligned with the last key. It sees key ``s``
        when ``s >= t + (S - T) - left`` and ``s <= t + (S - T) + right``.

    Conventions:
        Causal is ``(None, 0)``. ``left = W`` means W keys before the token, plus the token itself. With ``T > S`` the
        first queries sit before all keys; a causal window shows them none.

    Raises:
        TypeError: window is not a pair of integers or None.
        ValueError: a bound is negative.
    """
    require_window("window", window)
    left, right = window
    offset = torch.arange(S, device=device) - (torch.arange(T, device=device)[rows].unsqueeze(-1) + (S - T))
    visible = torch.ones(offset.shape, dtype=torch.bool, device=device)
    if left is not None:
        visible = visible & (offset >= -left)
    if right is not None:
        visible = visible & (offset <= right)
    return visible


def require_window(argument: str, window: Window) -> None:
    """Requires a pair of bounds, each None or an integer that is not negative.

    Raises:
        TypeError: it is no tuple of two integers or None.
        ValueError: a bound is negative.
    """
    if not isinstance(window, tuple) or len(window) != 2 or any(not _is_bound(bound) for bound in window):
        raise TypeError(f"{argument}: got {window!r}, expected (left, right), each None or an integer")
    if any(bound is not None and bound < 0 for bound in window):
        raise ValueError(f"{argument}: got {window!r}, expected no negative bound")


def _is_bound(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool))
