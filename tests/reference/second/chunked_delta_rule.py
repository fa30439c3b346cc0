"""The gated delta rule in chunks: the writes of a chunk are found at once by a triangular solve.

Source: Yang et al., "Parallelizing Linear Transformers with the Delta Rule over Sequence Length" (2024), section 3,
with the decay of "Gated Delta Networks" (2024), section 3.3; differentiable by autograd.
"""

import torch
from torch import Tensor

__all__ = ["chunked_delta_rule"]


def chunked_delta_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    initial_state: Tensor,
    *,
    scale: float,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """Returns out ``(B, T, H, V)`` and the final state ``(B, H, D, V)``."""
    H, G = value.shape[2], query.shape[2]
    heads = torch.arange(H) // (H // G)
    outs, states = [], []
    for b in range(query.shape[0]):
        of_head = [
            _one_head(
                query[b, :, g], key[b, :, g], value[b, :, h], log_decay[b, :, h], beta[b, :, h], initial_state[b, h],
                chunk=chunk,
            )
            for h, g in enumerate(heads.tolist())
        ]  # fmt: skip
        outs.append(torch.stack([out for out, _ in of_head], 1))
        states.append(torch.stack([state for _, state in of_head]))
    return scale * torch.stack(outs), torch.stack(states)


def _one_head(*inputs: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    *sequences, state = inputs
    outs = []
    for start in range(0, sequences[0].shape[0], chunk):
        q, k, v, log_decay, beta = (x[start : start + chunk] for x in sequences)
        since_start = log_decay.cumsum(0)
        between = (since_start[:, None] - since_start[None, :]).tril().exp()
        influence = (between * (k @ k.T)).tril(-1) * beta[:, None]
        reach = since_start.exp()[:, None]
        identity = torch.eye(len(beta), dtype=torch.float64)
        writes = torch.linalg.solve_triangular(
            identity + influence, beta[:, None] * (v - reach * (k @ state)), upper=False, unitriangular=True
        )
        outs.append(reach * (q @ state) + (between * (q @ k.T)).tril() @ writes)
        to_end = (since_start[-1] - since_start).exp()[:, None]
        state = since_start[-1].exp() * state + (to_end * k).T @ writes
    return torch.cat(outs), state
