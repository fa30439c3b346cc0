"""Ways to invert ``I + A`` for strictly lower triangular A, in float32. C is the length of a chunk."""

import torch
from torch import Tensor

__all__ = ["by_blocks", "by_newton", "by_rows", "by_solve"]

_BLOCK = 16


def by_solve(coupling: Tensor) -> Tensor:
    """Solves ``(I + A) X = I``."""
    identity = torch.eye(coupling.shape[-1])
    solved: Tensor = torch.linalg.solve_triangular(identity + coupling, identity, upper=False, unitriangular=True)
    return solved


def by_rows(coupling: Tensor) -> Tensor:
    """Substitutes forward: row i is ``e_i - sum_k A_ik X_k``."""
    length = coupling.shape[-1]
    identity = torch.eye(length).expand(*coupling.shape[:-2], length, length)
    solved = torch.zeros_like(identity).clone()
    for row in range(length):
        above = coupling[..., row : row + 1, :row] @ solved[..., :row, :]
        solved[..., row : row + 1, :] = identity[..., row : row + 1, :] - above
    return solved


def by_newton(coupling: Tensor) -> Tensor:
    """Newton's iteration ``X + X (I - (I + A) X)``, which squares the residual, once more than the length asks for.

    The powers of A that it passes grow with the length, so that only short blocks are done so; see ``by_blocks``.
    """
    length = coupling.shape[-1]
    identity = torch.eye(length)
    matrix = identity + coupling
    solved = identity - coupling
    for _ in range(max(length - 1, 1).bit_length() + 1):
        solved = (solved + solved @ (identity - matrix @ solved)).tril()
    return solved


def by_blocks(coupling: Tensor, *, is_newton: bool = False) -> Tensor:
    """Inverts diagonal blocks of 16, by rows or by Newton's iteration, and substitutes block by block below them."""
    length = coupling.shape[-1]
    ends = [(start, min(start + _BLOCK, length)) for start in range(0, length, _BLOCK)]
    solved = torch.zeros(*coupling.shape[:-2], length, length)
    for start, stop in ends:
        block = coupling[..., start:stop, start:stop]
        inverse = by_newton(block) if is_newton else by_rows(block)
        solved[..., start:stop, start:stop] = inverse
        if start:
            below = coupling[..., start:stop, :start] @ solved[..., :start, :start]
            solved[..., start:stop, :start] = -(inverse @ below)
    return solved
