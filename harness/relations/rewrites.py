"""Rewritten calls: the same mathematical result by another way.

A rewrite takes ``run`` (a call of the candidate by names of tensors and options), the case's tensors and options, and
returns the outputs of the case. Whatever it does to the inputs it undoes on the outputs. Gradients of the case's own
inputs follow by autograd through what it does, which is exact where it only moves elements.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.operations.case import Case
from harness.relations.pieces import Options, Run, Tensors, attention_apart, in_two_runs, keys_split, rule_apart

__all__ = ["REWRITES", "Declined", "Rewrite"]


class Declined(Exception):  # noqa: N818 - an outcome, not an error
    """The candidate declines the rewritten call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """One relation between two calls.

    Attributes:
        ops: operations that it applies to; all if empty.
        applies: whether it says anything about a case.
        outputs: the outputs of the case by the other way.
        summed: ends of the names of inputs of which the other way makes several: their gradients are sums of stored
            ones, with roundings that no recipe names, and are not compared. The empty end stands for all.
    """

    ops: frozenset[str]
    applies: Callable[[Case], bool]
    outputs: Callable[[Run, Tensors, Options, Case], dict[str, Tensor]]
    summed: Callable[[Case], tuple[str, ...]] = lambda _: ()


_ATTENTION = frozenset({"attention"})
_SOFTMAX = frozenset({"attention", "varlen_attention", "flash_sdpa"})
_RULE = frozenset({"gated_delta_rule"})
_BATCHED = frozenset(
    {"attention", "gated_delta_rule", "rms_norm", "gated_rms_norm", "l2_norm", "rope", "short_conv", "silu_mul",
     "grouped_query_attention", "multi_head_latent_attention", "gated_delta_net", "low_rank_projection", "flash_sdpa",
     "mamba_decay", "log_sigmoid_decay", "rope_tables"}
)  # fmt: skip


def _always(case: Case) -> bool:  # noqa: ARG001 - one signature
    return True


def _field(name: str, default: Any = None) -> Callable[[Case], Any]:  # noqa: ANN401 - a field's own type
    return lambda case: getattr(case, name, default)


def _is_batched(case: Case) -> bool:
    return getattr(case, "batch", 1) > 1


_SHARED = ("weight", "sinks", "A_log", "a_log", "dt_bias")
"""Ends of the names of inputs that all rows of a batch share."""


def _is_row(name: str, value: Tensor, batch: int) -> bool:
    """Returns whether a tensor has the batch as its first axis; weights and sinks do not."""
    return not name.endswith(_SHARED) and value.dim() > 0 and value.shape[0] == batch


def _again(run: Run, tensors: Tensors, options: Options, case: Case) -> dict[str, Tensor]:  # noqa: ARG001 - one signature
    return run(tensors, options)


def _for_inference(run: Run, tensors: Tensors, options: Options, case: Case) -> dict[str, Tensor]:  # noqa: ARG001 - one signature
    with torch.no_grad():
        return run(tensors, options)


def _after_others(run: Run, tensors: Tensors, options: Options, case: Case) -> dict[str, Tensor]:
    """Runs the case, then other dtypes, shapes and strides, then the case again: what a kernel keeps must not stick."""
    batch = getattr(case, "batch", 1)
    others = [
        {name: item.to(other) if item.is_floating_point() else item for name, item in tensors.items()}
        for other in (torch.float32, torch.bfloat16)
    ]
    others.append({
        name: (torch.cat([item, item]) if batch == 1 else item[:1]) if _is_row(name, item, batch) else item
        for name, item in tensors.items()
    })  # fmt: skip
    others.append({name: _other_strides(item) for name, item in tensors.items()})
    with torch.no_grad():
        run(tensors, options)
        for other in others:
            try:
                run(other, options)
            except Exception:  # whether it takes the others is not what is asked
                continue
    return run(tensors, options)


def _strided(run: Run, tensors: Tensors, options: Options, case: Case) -> dict[str, Tensor]:  # noqa: ARG001 - one signature
    return run({name: _other_strides(item) for name, item in tensors.items()}, options)


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


def _plain_name(name: str) -> str:
    return name.removesuffix("_states")


def _heads_reversed(run: Run, tensors: Tensors, options: Options, case: Case) -> dict[str, Tensor]:
    packed = case.op == "varlen_attention"
    axes = dict.fromkeys(("query", "key", "value"), 1 if packed else 2)
    axes |= {"sinks": 0, "log_decay": 2, "beta": 2, "initial_state": 1}
    if "bias" in tensors and tensors["bias"].shape[1] > 1:
        axes["bias"] = 1
    turned = {name: item.flip(axes[_plain_name(name)]) if _plain_name(name) in axes else item
              for name, item in tensors.items()}  # fmt: skip
    back = {"out": axes["value"], "lse": 0 if packed else 1, "final_state": 1}
    return {name: item.flip(back[name]) for name, item in run(turned, options).items()}


def _shared_heads(case: Case) -> tuple[str, ...]:
    return ("query", "key") if case.op == "gated_delta_rule" else ("key", "value", "key_states", "value_states")


def _heads_repeated(run: Run, tensors: Tensors, options: Options, case: Case) -> dict[str, Tensor]:
    shared = _shared_heads(case)
    group, axis = getattr(case, "group", 1), 1 if case.op == "varlen_attention" else 2
    wide = {name: item.repeat_interleave(group, axis) if name in shared else item
            for name, item in tensors.items()}  # fmt: skip
    return run(wide, options)


def _hidden_keys_prepended(run: Run, tensors: Tensors, options: Options, case: Case) -> dict[str, Tensor]:
    """Puts keys before the first that the mask hides; the last query still sits at the last key."""
    count = 3
    end, masked = ("_states", "attention_mask") if case.op == "flash_sdpa" else ("", "key_mask")
    longer = dict(tensors)
    for name in (f"key{end}", f"value{end}"):
        before = -2 * tensors[name][:, -1:].detach().expand(-1, count, -1, -1)
        longer[name] = torch.cat([before, tensors[name]], 1)
    rows, keys = tensors[f"key{end}"].shape[:2]
    mask = tensors.get(masked)
    seen = torch.ones(rows, keys, dtype=torch.bool, device=longer[f"key{end}"].device) if mask is None else mask
    longer[masked] = torch.cat([torch.zeros_like(seen[:, :1]).expand(-1, count), seen], 1)
    return run(longer, options)


def _unbounded_window(run: Run, tensors: Tensors, options: Options, case: Case) -> dict[str, Tensor]:
    huge = 1000 + sum(item.shape[0] + item.shape[1] for item in tensors.values() if item.dim() > 2)
    if case.op == "flash_sdpa":
        return run(tensors, {**options, "window_size": huge})
    left, right = options["window"]
    return run(tensors, {**options, "window": (huge if left is None else left, huge if right is None else right)})


def _sinks_of_nothing(run: Run, tensors: Tensors, options: Options, case: Case) -> dict[str, Tensor]:
    query = tensors["query_states" if case.op == "flash_sdpa" else "query"]
    heads = query.shape[-2]
    more = {"num_sinks": heads} if case.op == "flash_sdpa" else {}
    sinks = torch.full((heads,), -torch.inf, dtype=query.dtype, device=query.device)
    return run({**tensors, "sinks": sinks}, {**options, **more})


def _decay_of_zero(run: Run, tensors: Tensors, options: Options, case: Case) -> dict[str, Tensor]:  # noqa: ARG001 - one signature
    return run({**tensors, "log_decay": torch.zeros_like(tensors["beta"])}, options)


def _is_plain(case: Case) -> bool:
    # A window of 0 is a window: it must not be taken for False.
    windows = (getattr(case, "window_left", None), getattr(case, "window_right", None))
    return all(side is None for side in windows) and getattr(case, "bias", "none") in (None, False, "none")


def _can_split(case: Case) -> bool:
    return _is_plain(case) and not getattr(case, "sinks", False) and getattr(case, "key_tokens", 1) > 1


def _can_run_twice(case: Case) -> bool:
    # Rounded to a 16-bit format in between, the state would carry a rounding that no recipe names.
    return getattr(case, "tokens", 1) > 1 and not getattr(case, "sequence_lengths", ()) and case.dtype == "float32"


def _has_no_bound(case: Case) -> bool:
    """Returns whether some side of the window is unbounded."""
    if case.op == "flash_sdpa":
        return bool(getattr(case, "is_causal", False)) and getattr(case, "window_size", None) is None
    return getattr(case, "window_left", None) is None or getattr(case, "window_right", None) is None


REWRITES: Mapping[str, Rewrite] = {
    "run_twice": Rewrite(ops=frozenset(), applies=_always, outputs=_again),
    "for_inference": Rewrite(ops=frozenset(), applies=_always, outputs=_for_inference),
    "after_other_calls": Rewrite(ops=frozenset(), applies=_always, outputs=_after_others),
    "other_strides": Rewrite(ops=frozenset(), applies=_always, outputs=_strided),
    "batch_permuted": Rewrite(ops=_BATCHED, applies=_is_batched, outputs=_batch_reversed),
    "row_by_row": Rewrite(ops=_BATCHED, applies=_is_batched, outputs=_row_by_row, summed=lambda _: (*_SHARED, "bias")),
    "heads_permuted": Rewrite(ops=_SOFTMAX | _RULE, applies=_field("key_heads"), outputs=_heads_reversed),
    "heads_repeated": Rewrite(
        ops=_SOFTMAX | _RULE, applies=lambda case: getattr(case, "group", 1) > 1, outputs=_heads_repeated,
        summed=_shared_heads,
    ),
    "hidden_keys_prepended": Rewrite(
        ops=_ATTENTION | {"flash_sdpa"}, applies=lambda case: getattr(case, "bias", "none") == "none",
        outputs=_hidden_keys_prepended,
    ),
    "huge_window": Rewrite(ops=_SOFTMAX, applies=_has_no_bound, outputs=_unbounded_window),
    "sinks_of_nothing": Rewrite(
        ops=_SOFTMAX, applies=lambda case: not getattr(case, "sinks", False), outputs=_sinks_of_nothing
    ),
    "keys_split": Rewrite(ops=_ATTENTION, applies=_can_split, outputs=keys_split, summed=lambda _: ("",)),
    "two_runs": Rewrite(ops=_RULE, applies=_can_run_twice, outputs=in_two_runs),
    "decay_of_zero": Rewrite(
        ops=_RULE, applies=lambda case: not getattr(case, "log_decay", True), outputs=_decay_of_zero
    ),
    "sequences_apart": Rewrite(
        ops=frozenset({"varlen_attention"}), applies=_always, outputs=attention_apart, summed=lambda _: ("sinks",)
    ),
    "rule_sequences_apart": Rewrite(
        ops=_RULE, applies=lambda case: bool(getattr(case, "sequence_lengths", ())), outputs=rule_apart
    ),
}  # fmt: skip
"""The rewrites by name."""
