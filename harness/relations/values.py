"""Inputs whose result is known bit by bit: doubled values, one key with all the weight, an exact memory, nothing."""

from collections.abc import Mapping

import torch
from torch import Tensor

from harness.operations.base import Inputs
from harness.operations.case import Case
from harness.relations.outcome import Exact, Outcome, Tensors, changed, differs
from harness.relations.tokens import place_of
from harness.relations.visibility import keys_of, token_axis, visibility

__all__ = ["VALUES"]


def _doubled(case: Case, inputs: Inputs) -> Inputs:  # noqa: ARG001 - one signature
    names = ("value", "value_states", "initial_state")
    return changed(inputs, {name: inputs.tensors[name] * 2 for name in names if name in inputs.tensors})


_NORMAL = 2.0**-100
"""Above it, results and what they are summed from are normal numbers, which a power of two scales exactly."""


def _is_double(case: Case, _: Inputs, __: Inputs, one: Tensors, other: Tensors) -> Outcome:  # noqa: ARG001 - one signature
    largest = torch.finfo(one["out"].dtype).max / 2
    wide = one["out"].double()
    use = (wide.abs() < largest) & (wide.abs() > _NORMAL)
    wrong = use & differs(2 * wide, other["out"].double())
    return Outcome(
        wrong=int(wrong.sum()), has_power=bool(use.any()),
        what="elements are not exactly twice those of half the values",
        mixed={"out": torch.where(wrong, other["out"] / 2, one["out"])},
    )  # fmt: skip


_MARK = 64.0


def _marked(case: Case, inputs: Inputs) -> Inputs:
    """Returns inputs in which one key has a logit so far above all others that their weights are exactly 0."""
    end = "_states" if case.op == "flash_sdpa" else ""
    query, key = (torch.zeros_like(inputs.tensors[name + end]) for name in ("query", "key"))
    query[..., 0], key[..., 0] = _MARK, -_MARK
    axis = token_axis(case.op, "")
    key.select(axis, place_of(case, key.shape[axis]))[..., 0] = _MARK
    tensors = {name: item for name, item in inputs.tensors.items() if name != "bias"}
    if "sinks" in tensors:
        tensors["sinks"] = torch.full_like(tensors["sinks"], -torch.inf)
    return Inputs(
        tensors={**tensors, f"query{end}": query, f"key{end}": key}, options=inputs.options,
        cotangents=inputs.cotangents,
    )  # fmt: skip


def _is_marked_value(case: Case, first: Inputs, second: Inputs, one: Tensors, other: Tensors) -> Outcome:
    place = place_of(case, keys_of(case, first))
    value, axis = second.tensors["value_states" if case.op == "flash_sdpa" else "value"], token_axis(case.op, "")
    wanted = value.narrow(axis, place, 1).repeat_interleave(getattr(case, "group", 1), axis + 1)
    seen = visibility(case, first)[:, :, place]
    use = (seen[0] if axis == 0 else seen)[..., None, None] & torch.ones_like(other["out"], dtype=torch.bool)
    return Outcome(
        wrong=int((use & differs(wanted, other["out"])).sum()),
        has_power=bool((use & differs(one["out"], other["out"])).any()),
        what="elements are not the value of the only key with weight",
    )  # fmt: skip


def _no_writes(case: Case, inputs: Inputs) -> Inputs:  # noqa: ARG001 - one signature
    tensors = {name: item for name, item in inputs.tensors.items() if name != "initial_state"}
    tensors["beta"] = torch.zeros_like(tensors["beta"])
    return Inputs(tensors=tensors, options=inputs.options, cotangents=inputs.cotangents)


def _is_nothing(case: Case, _: Inputs, __: Inputs, one: Tensors, other: Tensors) -> Outcome:  # noqa: ARG001 - one signature
    wrong = sum(int((item != 0).sum()) for name, item in other.items() if name in ("out", "final_state"))
    return Outcome(wrong=wrong, has_power=bool((one["out"] != 0).any()), what="elements are not 0 although beta is")


def _memory(case: Case, inputs: Inputs) -> Inputs:  # noqa: ARG001 - one signature
    """Returns one-hot keys, each its own, read by themselves: without decay the state holds every value."""
    key = torch.zeros_like(inputs.tensors["key"])
    tokens = torch.arange(key.shape[1])
    key[:, tokens, :, tokens] = 1.0
    tensors = {name: item for name, item in inputs.tensors.items() if name != "initial_state"}
    tensors |= {"query": key.clone(), "key": key, "beta": torch.ones_like(tensors["beta"])}
    if "log_decay" in tensors:
        tensors["log_decay"] = torch.zeros_like(tensors["log_decay"])
    return Inputs(tensors=tensors, options={**inputs.options, "scale": 1.0}, cotangents=inputs.cotangents)


def _is_remembered(case: Case, _: Inputs, second: Inputs, one: Tensors, other: Tensors) -> Outcome:  # noqa: ARG001 - one signature
    wrong = differs(second.tensors["value"].double(), other["out"].double())
    return Outcome(
        wrong=int(wrong.sum()), has_power=bool(differs(one["out"], other["out"]).any()),
        what="elements are not the value that was written last",
    )  # fmt: skip


def _can_remember(case: Case) -> bool:
    fits = getattr(case, "tokens", 1) <= getattr(case, "key_dim", 0)
    return fits and not getattr(case, "normalize_qk", True) and not getattr(case, "sequence_lengths", ())


def _quarter_turns(case: Case, inputs: Inputs) -> Inputs:  # noqa: ARG001 - one signature
    """Returns angles of 0 and a quarter turn in turn, where a rotation is exact."""
    cos = torch.zeros_like(inputs.tensors["cos"])
    cos[:, ::2] = 1.0
    return changed(inputs, {"cos": cos, "sin": 1 - cos})


def _keeps_lengths(case: Case, _: Inputs, second: Inputs, one: Tensors, other: Tensors) -> Outcome:
    before, after = (_pairs(case, item.abs()) for item in (second.tensors["x"], other["out"]))
    wrong = differs(before.sort(-1).values, after.sort(-1).values)
    return Outcome(
        wrong=int(wrong.sum()), has_power=bool(differs(one["out"], other["out"]).any()),
        what="elements of pairs have another length after a quarter turn",
    )  # fmt: skip


def _pairs(case: Case, value: Tensor) -> Tensor:
    half = value.shape[-1] // 2
    if str(getattr(case, "style", "half")) == "half":
        return torch.stack([value[..., :half], value[..., half:]], -1)
    return torch.stack([value[..., ::2], value[..., 1::2]], -1)


_SOFTMAX = frozenset({"attention", "varlen_attention", "flash_sdpa"})
_RULE = frozenset({"gated_delta_rule"})


def _always(case: Case) -> bool:  # noqa: ARG001 - one signature
    return True


VALUES: Mapping[str, Exact] = {
    "values_doubled": Exact(
        ops=_SOFTMAX | _RULE, applies=lambda case: case.dtype != "float16", vary=_doubled, compare=_is_double
    ),
    "one_key_with_weight": Exact(ops=_SOFTMAX, applies=_always, vary=_marked, compare=_is_marked_value),
    "beta_of_zero": Exact(ops=_RULE, applies=_always, vary=_no_writes, compare=_is_nothing),
    "exact_memory": Exact(ops=_RULE, applies=_can_remember, vary=_memory, compare=_is_remembered),
    "quarter_turns": Exact(ops=frozenset({"rope"}), applies=_always, vary=_quarter_turns, compare=_keeps_lengths),
}
"""Properties of values by name."""
