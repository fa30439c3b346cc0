"""The call of the gated delta rule around an execution. Letters as in ``wy``."""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Run", "rule"]

_L2_NORM_EPS = 1e-6

Run = Callable[..., tuple[Tensor, Tensor]]
"""Goes through sequences that start together: (q, k, v, log decay, beta, state) to (out, state), all float32."""


def rule(run: Run) -> Run:
    """Returns the operation around an execution: heads repeated, sequences one by one, results stored."""

    def gated_delta_rule(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        log_decay: Tensor | None,
        beta: Tensor,
        *,
        scale: float,
        initial_state: Tensor | None = None,
        normalize_qk: bool = False,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        (B, T, H, V), (G, D) = value.shape, query.shape[2:]
        q, k = (x.float().repeat_interleave(H // G, 2).transpose(1, 2) for x in (query, key))
        if normalize_qk:
            q, k = (x / (x.square().sum(-1, keepdim=True) + _L2_NORM_EPS).sqrt() for x in (q, k))
        decays = torch.zeros(B, T, H) if log_decay is None else log_decay.float()
        v, rates = value.float().transpose(1, 2), beta.float().transpose(1, 2)[..., None]
        parts = (q, k, v, decays.transpose(1, 2)[..., None], rates)
        offsets = [0, T] if cu_seqlens is None else cu_seqlens.tolist()
        count = B if cu_seqlens is None else len(offsets) - 1
        states = torch.zeros(count, H, D, V) if initial_state is None else initial_state.float()
        begins = [states] if cu_seqlens is None else torch.split(states, 1)
        outs, ends = [], []
        for (start, stop), begin in zip(itertools.pairwise(offsets), begins, strict=True):
            end = begin
            if stop > start:
                out, end = run(*(x[:, :, start:stop] for x in parts), begin, value.dtype)
                outs.append(out)
            ends.append(end)
        out = scale * torch.cat(outs, 2).transpose(1, 2)
        return out.to(value.dtype), torch.cat(ends)

    return gated_delta_rule
