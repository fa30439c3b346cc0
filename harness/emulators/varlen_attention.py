"""Packed sequences: each is an ``attention`` of its own, with the rounding points of that emulator."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from harness.emulators import attention
from harness.emulators.arithmetic import Arithmetic

__all__ = ["emulate"]


def emulate(arithmetic: Arithmetic, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns ``{"out": (K,tokens,H,V), "lse": (K,H,tokens)}`` before the final store, differentiable.

    Args:
        arithmetic: the recipe and what happens at its rounding points.
        tensors: ``query, key, value`` as ``(K,tokens,heads,width)``, ``cu_seqlens_q, cu_seqlens_k`` and, if given,
            ``sinks`` with the sample axis; the sinks' gradients of the sequences are added in the accumulator.
        options: ``scale`` and ``window``.
    """
    queries, keys = tensors["cu_seqlens_q"].tolist(), tensors["cu_seqlens_k"].tolist()
    outs, lses = [], []
    for index in range(len(queries) - 1):
        if queries[index] == queries[index + 1]:
            continue
        rows, columns = slice(queries[index], queries[index + 1]), slice(keys[index], keys[index + 1])
        sequence = {
            "query": tensors["query"][:, None, rows],
            "key": tensors["key"][:, None, columns],
            "value": tensors["value"][:, None, columns],
        }
        if "sinks" in tensors:
            sequence["sinks"] = tensors["sinks"]
        result = attention.emulate(arithmetic, sequence, options)
        outs.append(result["out"][:, 0])
        lses.append(result["lse"][:, 0])
    return {"out": torch.cat(outs, 1), "lse": torch.cat(lses, 2)}
