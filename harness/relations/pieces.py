"""Rewritten calls that make one call several: halves of the keys or tokens, each sequence of a pack by itself."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from harness.operations.case import Case

__all__ = ["Options", "Run", "Tensors", "attention_apart", "in_two_runs", "keys_split", "rule_apart"]

Tensors = Mapping[str, Tensor]
Options = Mapping[str, Any]
Run = Callable[[Tensors, Options], dict[str, Tensor]]


def keys_split(run: Run, tensors: Tensors, options: Options, case: Case) -> dict[str, Tensor]:  # noqa: ARG001 - one signature
    """Merges the LSE of two halves of the keys; the merged outputs carry a rounding more and are not compared."""
    middle = tensors["key"].shape[1] // 2
    parts = []
    for part in (slice(0, middle), slice(middle, None)):
        mine = {name: item[:, part] if name in ("key", "value", "key_mask") else item for name, item in tensors.items()}
        parts.append(run(mine, options)["lse"])
    return {"lse": torch.logaddexp(*parts)}


def in_two_runs(run: Run, tensors: Tensors, options: Options, case: Case) -> dict[str, Tensor]:
    """Runs the delta rule over the first half of the tokens, then over the second from the state of the first."""
    middle = max(1, getattr(case, "tokens", 2) // 2)
    timed = ("query", "key", "value", "log_decay", "beta")
    halves = [
        {name: item[:, part] if name in timed else item for name, item in tensors.items()}
        for part in (slice(0, middle), slice(middle, None))
    ]
    first = run(halves[0], options)
    second = run({**halves[1], "initial_state": first["final_state"].to(tensors["query"].dtype)}, options)
    return {"out": torch.cat([first["out"], second["out"]], 1), "final_state": second["final_state"]}


def attention_apart(run: Run, tensors: Tensors, options: Options, case: Case) -> dict[str, Tensor]:  # noqa: ARG001 - one signature
    """Runs attention on each sequence of a pack by itself."""
    starts = [tensors["cu_seqlens_q"].tolist(), tensors["cu_seqlens_k"].tolist()]
    parts = []
    for (first, last), (begin, end) in zip(*map(itertools.pairwise, starts), strict=True):
        ends = {name: torch.tensor([0, stop - start], dtype=torch.int32, device=tensors["query"].device)
                for name, start, stop in (("cu_seqlens_q", first, last), ("cu_seqlens_k", begin, end))}  # fmt: skip
        if last > first:
            mine = {"query": tensors["query"][first:last], "key": tensors["key"][begin:end],
                    "value": tensors["value"][begin:end]}  # fmt: skip
            parts.append(run({**tensors, **mine, **ends}, options))
    return {name: torch.cat([part[name] for part in parts], 0 if name == "out" else 1) for name in parts[0]}


def rule_apart(run: Run, tensors: Tensors, options: Options, case: Case) -> dict[str, Tensor]:  # noqa: ARG001 - one signature
    """Runs the delta rule on each sequence of a pack by itself."""
    timed, offsets = ("query", "key", "value", "log_decay", "beta"), tensors["cu_seqlens"].tolist()
    outs, states = [], []
    for index, (start, stop) in enumerate(itertools.pairwise(offsets)):
        if stop > start:
            mine = {name: item[:, start:stop] for name, item in tensors.items() if name in timed}
            if "initial_state" in tensors:
                mine["initial_state"] = tensors["initial_state"][index : index + 1]
            result = run(mine, options)
            outs.append(result["out"])
            states.append(result["final_state"])
        else:
            shape = (1, tensors["value"].shape[2], tensors["key"].shape[3], tensors["value"].shape[3])
            kept = tensors.get("initial_state")
            states.append(
                torch.zeros(shape, device=tensors["key"].device) if kept is None else kept[index : index + 1].float()
            )
    return {"out": torch.cat(outs, 1), "final_state": torch.cat([state.float() for state in states])}
