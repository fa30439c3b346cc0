"""Other inputs whose effect on the result is known bit by bit.

A property changes the inputs of a case, and compares what came of them with what came of the case. It names a control:
something that had to change, or to be other than trivial, for the comparison to mean anything.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.operations.base import Inputs
from harness.operations.case import Case

__all__ = ["EXACT", "Exact", "Outcome"]

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a comparison found.

    Attributes:
        wrong: elements that differ although they may not.
        has_power: whether the control changed what it had to.
        what: the sentence for elements that differ.
    """

    wrong: int
    has_power: bool
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """One property.

    Attributes:
        ops: operations that it applies to.
        applies: whether it says anything about a case.
        vary: the other inputs.
        compare: given the case, both inputs, and the first and the second outputs.
    """

    ops: frozenset[str]
    applies: Callable[[Case], bool]
    vary: Callable[[Case, Inputs], Inputs]
    compare: Callable[[Case, Inputs, Inputs, Tensors, Tensors], Outcome]


def _changed(inputs: Inputs, tensors: Tensors, **options: object) -> Inputs:
    return Inputs(
        tensors={**inputs.tensors, **tensors}, options={**inputs.options, **options}, cotangents=inputs.cotangents
    )


def _differs(one: Tensor, other: Tensor) -> Tensor:
    return ~((one == other) | (torch.isnan(one) & torch.isnan(other)))


# -- one token is another one: nothing that does not see it changes by a bit ------------------------------------------

_TOKEN_INPUTS: Mapping[str, tuple[str, ...]] = {
    "attention": ("key", "value"),
    "varlen_attention": ("key", "value"),
    "flash_sdpa": ("key_states", "value_states"),
    "gated_delta_rule": ("query", "key", "value", "log_decay", "beta"),
    "short_conv": ("x",),
    "gated_delta_net": ("hidden_states",),
    "grouped_query_attention": ("hidden_states",),
    "multi_head_latent_attention": ("hidden_states",),
}


def _token(case: Case, count: int) -> int:
    return case.seed // 7 % count


def _token_axis(op: str) -> int:
    return 0 if op == "varlen_attention" else 1


def _another_token(case: Case, inputs: Inputs) -> Inputs:
    axis, names = _token_axis(case.op), _TOKEN_INPUTS[case.op]
    changed = {}
    for name in names:
        if name in inputs.tensors:
            value = inputs.tensors[name].clone()
            place = _token(case, value.shape[axis])
            # A mean with the first token stays in every domain: log decays negative, betas in (0, 1).
            moved = 0.5 * value.select(axis, place) + 0.25 * value.select(axis, 0)
            value.select(axis, place).copy_(moved)
            changed[name] = value
    return _changed(inputs, changed)


def _seen_by(case: Case, inputs: Inputs) -> Tensor:
    """Returns which tokens of the output may see the changed one: ``(batch or 1, tokens)``."""
    if case.op == "varlen_attention":
        return _seen_in_pack(case, inputs)
    value = inputs.tensors[_TOKEN_INPUTS[case.op][-1] if case.op != "gated_delta_rule" else "value"]
    keys = value.shape[1]
    place = _token(case, keys)
    tokens = getattr(case, "query_tokens", keys)
    distance = place - (torch.arange(tokens) + keys - tokens)
    left, right = getattr(case, "window_left", None), getattr(case, "window_right", None)
    if case.op in {"short_conv", "gated_delta_rule", "gated_delta_net"} or getattr(case, "is_causal", False):
        right = 0
    if case.op == "flash_sdpa" and getattr(case, "window_size", None) is not None:
        left = case.window_size  # type: ignore[attr-defined]  # the field of this operation
    seen = torch.ones(1, tokens, dtype=torch.bool)
    seen = seen if left is None else seen & (distance >= -left)
    seen = seen if right is None else seen & (distance <= right)
    mask = inputs.tensors.get("key_mask" if case.op == "attention" else "attention_mask")
    if case.op in {"attention", "flash_sdpa"} and mask is not None:
        seen = seen & mask[:, place, None]
    offsets = inputs.tensors.get("cu_seqlens")
    if offsets is not None:
        pack = torch.bucketize(torch.arange(tokens), offsets[1:].long(), right=True)
        seen = seen & (pack == pack[place])
    return seen


def _seen_in_pack(case: Case, inputs: Inputs) -> Tensor:
    starts, ends = inputs.tensors["cu_seqlens_q"].tolist(), inputs.tensors["cu_seqlens_k"].tolist()
    place = _token(case, inputs.tensors["key"].shape[0])
    seen = torch.zeros(1, inputs.tensors["query"].shape[0], dtype=torch.bool)
    left, right = inputs.options["window"]
    for (first, last), (begin, end) in zip(zip(starts, starts[1:]), zip(ends, ends[1:]), strict=True):  # noqa: B905, RUF007
        if begin <= place < end:
            distance = place - begin - (torch.arange(last - first) + (end - begin) - (last - first))
            mine = torch.ones_like(distance, dtype=torch.bool)
            mine = mine if left is None else mine & (distance >= -left)
            seen[0, first:last] = mine if right is None else mine & (distance <= right)
    return seen


def _only_seen(case: Case, first: Inputs, _: Inputs, one: Tensors, other: Tensors) -> Outcome:
    seen = _seen_by(case, first)
    differs = _differs(one["out"], other["out"])
    if case.op == "varlen_attention":
        differs = differs[None]
    touched = differs.flatten(2).any(-1)
    wrong = touched & ~seen
    return Outcome(
        wrong=int(differs.flatten(2).sum(-1)[wrong].sum()), has_power=bool((touched & seen).any()),
        what="elements of tokens that do not see the changed one are others",
    )  # fmt: skip


# -- values times two, a mark in a row of keys, writes of nothing, an exact memory, quarter turns --------------------


def _doubled(case: Case, inputs: Inputs) -> Inputs:
    names = ("value",) if case.op != "gated_delta_rule" else ("value", "initial_state")
    return _changed(inputs, {name: inputs.tensors[name] * 2 for name in names if name in inputs.tensors})


_NORMAL = {"float16": 2.0**-13, "bfloat16": 2.0**-100, "float32": 2.0**-100}
"""Above it, results and what they are summed from are normal numbers, which a power of two scales exactly."""


def _is_double(case: Case, _: Inputs, __: Inputs, one: Tensors, other: Tensors) -> Outcome:
    largest = torch.finfo(one["out"].dtype).max / 2
    wide = one["out"].double()
    use = (wide.abs() < largest) & (wide.abs() > _NORMAL[case.dtype])
    wrong = use & _differs(2 * wide, other["out"].double())
    return Outcome(
        wrong=int(wrong.sum()),
        has_power=bool(use.any()),
        what="elements are not exactly twice those of half the values",
    )


_MARK = 64.0


def _marked(case: Case, inputs: Inputs) -> Inputs:
    """Returns inputs in which one key has a logit so far above all others that their weights are exactly 0."""
    query, key = torch.zeros_like(inputs.tensors["query"]), torch.zeros_like(inputs.tensors["key"])
    query[..., 0], key[..., 0] = _MARK, -_MARK
    key[:, _token(case, key.shape[1]), :, 0] = _MARK
    tensors = {name: item for name, item in inputs.tensors.items() if name not in ("sinks", "bias")}
    return Inputs(tensors={**tensors, "query": query, "key": key}, options=inputs.options, cotangents=inputs.cotangents)


def _is_marked_value(case: Case, first: Inputs, second: Inputs, one: Tensors, other: Tensors) -> Outcome:
    seen = _seen_by(case, first)
    value = second.tensors["value"][:, _token(case, second.tensors["value"].shape[1])]
    wanted = value.repeat_interleave(getattr(case, "group", 1), 1)[:, None].expand_as(other["out"])
    use = seen[..., None, None].expand_as(other["out"])
    return Outcome(
        wrong=int((use & _differs(wanted, other["out"])).sum()),
        has_power=bool((use & _differs(one["out"], other["out"])).any()),
        what="elements are not the value of the only key with weight",
    )  # fmt: skip


def _no_writes(case: Case, inputs: Inputs) -> Inputs:  # noqa: ARG001 - one signature
    changed = {"beta": torch.zeros_like(inputs.tensors["beta"])}
    tensors = {name: item for name, item in inputs.tensors.items() if name != "initial_state"}
    return Inputs(tensors={**tensors, **changed}, options=inputs.options, cotangents=inputs.cotangents)


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
    wrong = _differs(second.tensors["value"].double(), other["out"].double())
    return Outcome(
        wrong=int(wrong.sum()), has_power=bool(_differs(one["out"], other["out"]).any()),
        what="elements are not the value that was written last",
    )  # fmt: skip


def _can_remember(case: Case) -> bool:
    fits = getattr(case, "tokens", 1) <= getattr(case, "key_dim", 0)
    return fits and not getattr(case, "normalize_qk", True) and not getattr(case, "sequence_lengths", ())


def _quarter_turns(case: Case, inputs: Inputs) -> Inputs:  # noqa: ARG001 - one signature
    """Returns angles of 0 and a quarter turn in turn, where a rotation is exact."""
    cos = torch.zeros_like(inputs.tensors["cos"])
    cos[:, ::2] = 1.0
    return _changed(inputs, {"cos": cos, "sin": 1 - cos})


def _keeps_lengths(case: Case, _: Inputs, second: Inputs, one: Tensors, other: Tensors) -> Outcome:
    before, after = (_pairs(case, item.abs()) for item in (second.tensors["x"], other["out"]))
    wrong = _differs(before.sort(-1).values, after.sort(-1).values)
    return Outcome(
        wrong=int(wrong.sum()), has_power=bool(_differs(one["out"], other["out"]).any()),
        what="elements of pairs have another length after a quarter turn",
    )  # fmt: skip


def _pairs(case: Case, value: Tensor) -> Tensor:
    half = value.shape[-1] // 2
    if str(getattr(case, "style", "half")) == "half":
        return torch.stack([value[..., :half], value[..., half:]], -1)
    return torch.stack([value[..., ::2], value[..., 1::2]], -1)


def _always(case: Case) -> bool:  # noqa: ARG001 - one signature
    return True


def _sees_some(case: Case) -> bool:
    return case.op not in {"grouped_query_attention", "multi_head_latent_attention"} or bool(
        getattr(case, "is_causal", False)
    )


EXACT: Mapping[str, Exact] = {
    "unseen_token": Exact(
        ops=frozenset(_TOKEN_INPUTS), applies=_sees_some, vary=_another_token, compare=_only_seen
    ),
    "values_doubled": Exact(
        ops=frozenset({"attention", "varlen_attention", "gated_delta_rule"}),
        applies=lambda case: case.dtype != "float16", vary=_doubled, compare=_is_double,
    ),
    "one_key_with_weight": Exact(
        ops=frozenset({"attention"}), applies=_always, vary=_marked, compare=_is_marked_value
    ),
    "beta_of_zero": Exact(
        ops=frozenset({"gated_delta_rule"}), applies=_always, vary=_no_writes, compare=_is_nothing
    ),
    "exact_memory": Exact(
        ops=frozenset({"gated_delta_rule"}), applies=_can_remember, vary=_memory, compare=_is_remembered
    ),
    "quarter_turns": Exact(
        ops=frozenset({"rope"}), applies=_always, vary=_quarter_turns, compare=_keeps_lengths
    ),
}  # fmt: skip
"""The exact properties by name."""
