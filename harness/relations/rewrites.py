"""Rewritten calls: the same mathematical result by another way, outputs alone, without recording gradients.

A rewrite takes ``run`` (a call of the candidate by names of tensors and options), the case's tensors and options, and
returns the outputs of the case. Whatever it does to the inputs it undoes on the outputs.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.operations.case import Case

__all__ = ["REWRITES", "Declined", "Rewrite"]

Tensors = Mapping[str, Tensor]
Options = Mapping[str, Any]
Run = Callable[[Tensors, Options], dict[str, Tensor]]


class Declined(Exception):  # noqa: N818 - an outcome, not an error
    """The candidate declines the rewritten call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """One relation between two calls.

    Attributes:
        ops: operations that it applies to; all if empty.
        applies: whether it says anything about a case.
        outputs: the outputs of the case by the other way.
    """

    ops: frozenset[str]
    applies: Callable[[Case], bool]
    outputs: Callable[[Run, Tensors, Options, Case], dict[str, Tensor]]


_ATTENTION = frozenset({"attention"})
_RULE = frozenset({"gated_delta_rule"})
_BATCHED = frozenset(
    {"attention", "gated_delta_rule", "rms_norm", "gated_rms_norm", "l2_norm", "rope", "short_conv", "silu_mul",
     "grouped_query_attention", "multi_head_latent_attention", "gated_delta_net", "low_rank_projection"}
)  # fmt: skip


def _always(case: Case) -> bool:  # noqa: ARG001 - one signature
    return True


def _field(name: str, default: Any = None) -> Callable[[Case], Any]:  # noqa: ANN401 - a field's own type
    return lambda case: getattr(case, name, default)


def _is_batched(case: Case) -> bool:
    return getattr(case, "batch", 1) > 1


def _is_row(name: str, value: Tensor, batch: int) -> bool:
    """Returns whether a tensor has the batch as its first axis; weights and sinks do not."""
    shared = ("weight", "sinks", "A_log", "a_log", "dt_bias")
    return not name.endswith(shared) and value.dim() > 0 and value.shape[0] == batch


def _again(run: Run, tensors: Tensors, options: Options, case: Case) -> dict[str, Tensor]:  # noqa: ARG001 - one signature
    return run(tensors, options)


def _after_others(run: Run, tensors: Tensors, options: Options, case: Case) -> dict[str, Tensor]:  # noqa: ARG001 - one signature
    """Runs the case, then other dtypes, then the same shapes with other strides: what a kernel keeps must not stick."""
    run(tensors, options)
    for other in (torch.float32, torch.bfloat16):
        changed = {name: item.to(other) if item.is_floating_point() else item for name, item in tensors.items()}
        try:
            run(changed, options)
        except (Declined, Exception):  # noqa: BLE001, S112, RUF100 - another dtype is not the candidate's business
            continue
    moved = {name: _other_strides(item) for name, item in tensors.items()}
    return run(moved, options)


def _other_strides(value: Tensor) -> Tensor:
    """Returns the same values: contiguous ones with two axes swapped in memory, others contiguous."""
    if value.dim() < 3 or not value.is_floating_point():
        return value
    if not value.is_contiguous():
        return value.contiguous()
    return value.transpose(1, 2).contiguous().transpose(1, 2)


def _batch_reversed(run: Run, tensors: Tensors, options: Options, case: Case) -> dict[str, Tensor]:
    batch = getattr(case, "batch", 1)
    turned = {name: item.flip(0) if _is_row(name, item, batch) else item for name, item in tensors.items()}
    return {name: item.flip(0) for name, item in run(turned, options).items()}


def _row_by_row(run: Run, tensors: Tensors, options: Options, case: Case) -> dict[str, Tensor]:
    batch = getattr(case, "batch", 1)
    rows = [
        run({name: item[row : row + 1] if _is_row(name, item, batch) else item for name, item in tensors.items()},
            options)
        for row in range(batch)
    ]  # fmt: skip
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def _heads_reversed(run: Run, tensors: Tensors, options: Options, case: Case) -> dict[str, Tensor]:  # noqa: ARG001 - one signature
    turned = {name: item.flip(2) if name in ("query", "key", "value") else item for name, item in tensors.items()}
    for name, axis in (("sinks", 0), ("log_decay", 2), ("beta", 2), ("initial_state", 1)):
        if name in turned:
            turned[name] = turned[name].flip(axis)
    if "bias" in turned and turned["bias"].shape[1] > 1:
        turned["bias"] = turned["bias"].flip(1)
    result = run(turned, options)
    return {name: item.flip(2 if name == "out" else 1) for name, item in result.items()}


def _heads_repeated(run: Run, tensors: Tensors, options: Options, case: Case) -> dict[str, Tensor]:
    shared = ("key", "value") if case.op == "attention" else ("query", "key")
    group = getattr(case, "group", 1)
    wide = {name: item.repeat_interleave(group, 2) if name in shared else item for name, item in tensors.items()}
    return run(wide, options)


def _hidden_keys_prepended(run: Run, tensors: Tensors, options: Options, case: Case) -> dict[str, Tensor]:  # noqa: ARG001 - one signature
    """Puts keys before the first that the mask hides; the last query still sits at the last key."""
    count = 3
    longer = dict(tensors)
    for name in ("key", "value"):
        longer[name] = torch.cat([-2 * tensors[name][:, -1:].expand(-1, count, -1, -1), tensors[name]], 1)
    rows, keys = tensors["key"].shape[:2]
    mask = tensors.get("key_mask")
    seen = torch.ones(rows, keys, dtype=torch.bool, device=longer["key"].device) if mask is None else mask
    longer["key_mask"] = torch.cat([torch.zeros_like(seen[:, :1]).expand(-1, count), seen], 1)
    return run(longer, options)


def _unbounded_window(run: Run, tensors: Tensors, options: Options, case: Case) -> dict[str, Tensor]:  # noqa: ARG001 - one signature
    huge = tensors["key"].shape[1] + tensors["query"].shape[1] + 1000
    left, right = options["window"]
    return run(tensors, {**options, "window": (huge if left is None else left, huge if right is None else right)})


def _sinks_of_nothing(run: Run, tensors: Tensors, options: Options, case: Case) -> dict[str, Tensor]:  # noqa: ARG001 - one signature
    query = tensors["query"]
    return run({**tensors, "sinks": torch.full_like(query[0, 0, :, 0], -torch.inf)}, options)


def _keys_split(run: Run, tensors: Tensors, options: Options, case: Case) -> dict[str, Tensor]:  # noqa: ARG001 - one signature
    """Merges the LSE of two halves of the keys; the merged outputs carry a rounding more and are not compared."""
    middle = tensors["key"].shape[1] // 2
    parts = []
    for part in (slice(0, middle), slice(middle, None)):
        mine = {name: item[:, part] if name in ("key", "value", "key_mask") else item for name, item in tensors.items()}
        parts.append(run(mine, options)["lse"])
    return {"lse": torch.logaddexp(*parts)}


def _in_two_runs(run: Run, tensors: Tensors, options: Options, case: Case) -> dict[str, Tensor]:
    middle = max(1, getattr(case, "tokens", 2) // 2)
    timed = ("query", "key", "value", "log_decay", "beta")
    halves = [
        {name: item[:, part] if name in timed else item for name, item in tensors.items()}
        for part in (slice(0, middle), slice(middle, None))
    ]
    first = run(halves[0], options)
    second = run({**halves[1], "initial_state": first["final_state"].to(tensors["query"].dtype)}, options)
    return {"out": torch.cat([first["out"], second["out"]], 1), "final_state": second["final_state"]}


def _decay_of_zero(run: Run, tensors: Tensors, options: Options, case: Case) -> dict[str, Tensor]:  # noqa: ARG001 - one signature
    return run({**tensors, "log_decay": torch.zeros_like(tensors["beta"])}, options)


def _attention_apart(run: Run, tensors: Tensors, options: Options, case: Case) -> dict[str, Tensor]:  # noqa: ARG001 - one signature
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


def _rule_apart(run: Run, tensors: Tensors, options: Options, case: Case) -> dict[str, Tensor]:  # noqa: ARG001 - one signature
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


def _is_plain(case: Case) -> bool:
    return all(getattr(case, name, None) in (None, False, "none") for name in ("window_left", "window_right", "bias"))


def _can_split(case: Case) -> bool:
    return _is_plain(case) and not getattr(case, "sinks", False) and getattr(case, "key_tokens", 1) > 1


def _can_run_twice(case: Case) -> bool:
    # Rounded to a 16-bit format in between, the state would carry a rounding that no recipe names.
    return getattr(case, "tokens", 1) > 1 and not getattr(case, "sequence_lengths", ()) and case.dtype == "float32"


REWRITES: Mapping[str, Rewrite] = {
    "run_twice": Rewrite(ops=frozenset(), applies=_always, outputs=_again),
    "after_other_calls": Rewrite(ops=frozenset(), applies=_always, outputs=_after_others),
    "batch_permuted": Rewrite(ops=_BATCHED, applies=_is_batched, outputs=_batch_reversed),
    "row_by_row": Rewrite(ops=_BATCHED, applies=_is_batched, outputs=_row_by_row),
    "heads_permuted": Rewrite(ops=_ATTENTION | _RULE, applies=_field("key_heads"), outputs=_heads_reversed),
    "heads_repeated": Rewrite(
        ops=_ATTENTION | _RULE, applies=lambda case: getattr(case, "group", 1) > 1, outputs=_heads_repeated
    ),
    "hidden_keys_prepended": Rewrite(
        ops=_ATTENTION, applies=lambda case: getattr(case, "bias", "none") == "none", outputs=_hidden_keys_prepended
    ),
    "huge_window": Rewrite(ops=_ATTENTION, applies=_always, outputs=_unbounded_window),
    "sinks_of_nothing": Rewrite(
        ops=_ATTENTION, applies=lambda case: not getattr(case, "sinks", False), outputs=_sinks_of_nothing
    ),
    "keys_split": Rewrite(ops=_ATTENTION, applies=_can_split, outputs=_keys_split),
    "two_runs": Rewrite(ops=_RULE, applies=_can_run_twice, outputs=_in_two_runs),
    "decay_of_zero": Rewrite(
        ops=_RULE, applies=lambda case: not getattr(case, "log_decay", True), outputs=_decay_of_zero
    ),
    "sequences_apart": Rewrite(ops=frozenset({"varlen_attention"}), applies=_always, outputs=_attention_apart),
    "rule_sequences_apart": Rewrite(
        ops=_RULE, applies=lambda case: bool(getattr(case, "sequence_lengths", ())), outputs=_rule_apart
    ),
}
"""The rewrites by name."""
