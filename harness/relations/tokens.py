"""Non-interference: what a token, a row or a sequence does not see changes nothing of it, and gets no gradient from it.

Values of hidden tokens are moved far, but stay finite: inputs must be finite also where they are hidden
(``reference.attention``). Another row of the batch, another token of an operation that works on each by itself, and
another sequence of a pack are NaN.
"""

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor

from harness.operations.base import Inputs
from harness.operations.case import Case
from harness.ops import operation
from harness.relations.outcome import Exact, Outcome, Tensors, changed, differs, unchanged
from harness.relations.visibility import HIDDEN_STILL_ASK, TOKEN_INPUTS, keys_of, token_axis, visibility
from harness.truth import GRAD

__all__ = ["TOKENS", "place_of"]

_FAR: Mapping[str, float] = {"float16": 4.0, "bfloat16": 65536.0, "float32": 65536.0, "float64": 65536.0}
"""By how much a hidden token is enlarged: its logit beats a finite mask, and no product leaves the format's range."""

_ATTENTION = frozenset({"attention", "varlen_attention", "flash_sdpa"})
_QUERY: Mapping[str, str] = {
    "attention": "query", "varlen_attention": "query", "flash_sdpa": "query_states", "gated_delta_rule": "query",
}  # fmt: skip


def place_of(case: Case, count: int) -> int:
    """Returns the token of a case that a property is about."""
    return zlib.crc32(f"token:{case.seed}".encode()) % count


def _rows(op: str, mask: Tensor, value: Tensor, name: str) -> Tensor:
    """Returns a mask ``(rows, tokens)`` in the shape of an input, output or gradient, heads before tokens or not."""
    axis = token_axis(op, name)
    if op == "varlen_attention":
        shape = [1] * value.dim()
        shape[axis] = -1
        return mask[0].view(shape)
    shape = [mask.shape[0], *[1] * (value.dim() - 1)]
    shape[axis] = mask.shape[1]
    return mask.view(shape)


# -- one token is another one -----------------------------------------------------------------------------------------


def _moved(case: Case, value: Tensor, axis: int) -> Tensor:
    """Returns other values of every token: far away where they may be anything, else a mean with the first token.

    A mean stays in every domain: log decays negative, betas in (0, 1).
    """
    mean = 0.5 * value + 0.25 * value.select(axis, 0).unsqueeze(axis)
    return mean * _FAR[case.dtype] if case.op in _ATTENTION else mean


def _replaced(case: Case, inputs: Inputs, where: Tensor) -> Inputs:
    """Returns inputs whose tokens are others where a mask ``(rows, tokens)`` says so."""
    axis = token_axis(case.op, "")
    return changed(inputs, {
        name: torch.where(_rows(case.op, where, value, ""), _moved(case, value, axis), value)
        for name, value in inputs.tensors.items() if name in TOKEN_INPUTS[case.op]
    })  # fmt: skip


def _another_token(case: Case, inputs: Inputs) -> Inputs:
    count = keys_of(case, inputs)
    return _replaced(case, inputs, (torch.arange(count) == place_of(case, count))[None])


def _only_seen(case: Case, first: Inputs, _: Inputs, one: Tensors, other: Tensors) -> Outcome:
    seen = visibility(case, first)[:, :, place_of(case, keys_of(case, first))]
    keep = {
        name: ~_rows(case.op, seen, one[name], name)
        for name in ("out", "lse", GRAD + _QUERY.get(case.op, "")) if name in one
    }  # fmt: skip
    touched = differs(one["out"], other["out"]) & _rows(case.op, seen, one["out"], "out")
    what = "elements of tokens that do not see the changed one are others"
    return unchanged(one, other, keep, what, has_power=bool(touched.any()))


# -- all hidden tokens are others -------------------------------------------------------------------------------------


def _hidden(case: Case, inputs: Inputs) -> Tensor:
    """Returns the tokens that no other sees, ``(rows, tokens)``."""
    seen = visibility(case, inputs)
    if case.op in HIDDEN_STILL_ASK:
        seen = seen & ~torch.eye(seen.shape[-1], dtype=torch.bool)
    return ~seen.any(1)


def _hidden_moved(case: Case, inputs: Inputs) -> Inputs:
    return _replaced(case, inputs, _hidden(case, inputs))


def _seen_moved(case: Case, inputs: Inputs) -> Inputs:
    return _replaced(case, inputs, ~_hidden(case, inputs))


def _nothing_moves(case: Case, first: Inputs, _: Inputs, one: Tensors, other: Tensors) -> Outcome:
    hidden = _hidden(case, first)
    every = torch.tensor(True)  # noqa: FBT003 - torch's own signature
    keep = {"out": ~_rows(case.op, hidden, one["out"], "out")}
    if case.op not in HIDDEN_STILL_ASK:
        keep = dict.fromkeys(one, every)
    what = "elements change with tokens that nothing sees"
    return unchanged(one, other, keep, what, has_power=bool(hidden.any()))


def _may_hide(case: Case) -> bool:
    """Returns whether a case may have tokens that nothing sees: masked, or outside the window of all."""
    has_mask = getattr(case, "key_mask", False) or getattr(case, "mask", False)
    left = getattr(case, "window_size", getattr(case, "window_left", None))
    queries, keys = getattr(case, "query_tokens", 0), getattr(case, "key_tokens", 0)
    return bool(has_mask or (left is not None and keys - queries - left > 0) or 0 in getattr(case, "query_lengths", ()))


# -- the cotangent of one token ---------------------------------------------------------------------------------------


def _one_cotangent(case: Case, inputs: Inputs) -> Inputs:
    """Returns cotangents that are 0 but for one token."""
    kept = {}
    for output in operation(case.op).outputs:
        value = torch.zeros_like(inputs.cotangents[output.name])
        if "token" in output.axes:
            axis = output.axes.index("token")
            place = place_of(case, value.shape[axis])
            value.select(axis, place).copy_(1.5 + inputs.cotangents[output.name].select(axis, place).sign())
        kept[output.name] = value
    return Inputs(tensors=inputs.tensors, options=inputs.options, cotangents=kept)


def _only_seen_gradients(case: Case, first: Inputs, _: Inputs, one: Tensors, other: Tensors) -> Outcome:
    sees = visibility(case, first)
    place = place_of(case, sees.shape[1])
    itself = (torch.arange(sees.shape[1]) == place)[None]
    masks = dict.fromkeys(TOKEN_INPUTS[case.op], sees[:, place])
    masks |= {_QUERY[case.op]: itself} if case.op in _QUERY else {}
    wrong, powers, where = 0, [False], []
    for name, mask in masks.items():
        grad = other.get(GRAD + name)
        if grad is None or GRAD + name not in one:
            continue
        seen = _rows(case.op, mask, grad, "").expand_as(grad)
        off = int(((grad != 0) & ~seen).sum())
        wrong += off
        where += [name] if off else []
        powers.append(bool((grad[seen] != 0).any() and (~seen).any()))
    what = f"gradients of tokens that the only one with a cotangent does not see are not 0 ({', '.join(where)})"
    return Outcome(wrong=wrong, has_power=any(powers), what=what)


# -- another row, token or sequence is not a number -------------------------------------------------------------------

_BY_TOKEN = frozenset(
    {"rms_norm", "gated_rms_norm", "l2_norm", "rope", "silu_mul", "mamba_decay", "log_sigmoid_decay",
     "low_rank_projection"}
)  # fmt: skip


def _units(case: Case, inputs: Inputs) -> dict[str, tuple[int, int, int]]:
    """Returns by input and output which part is not a number: axis, first, last; for tokens of a row see ``_part``."""
    if case.op == "varlen_attention" or "cu_seqlens" in inputs.tensors:
        return _sequence(case, inputs)
    row = place_of(case, getattr(case, "batch", 1))
    names = [name for name, item in inputs.tensors.items() if _is_row(name, item, getattr(case, "batch", 1))]
    return dict.fromkeys([*names, *(output.name for output in operation(case.op).outputs)], (0, row, row + 1))


def _sequence(case: Case, inputs: Inputs) -> dict[str, tuple[int, int, int]]:
    if case.op == "varlen_attention":
        q, k = inputs.tensors["cu_seqlens_q"].tolist(), inputs.tensors["cu_seqlens_k"].tolist()
        pack = place_of(case, len(q) - 1)
        query, key = (0, q[pack], q[pack + 1]), (0, k[pack], k[pack + 1])
        return {"query": query, "key": key, "value": key, "out": query, "lse": (1, *query[1:])}
    offsets = inputs.tensors["cu_seqlens"].tolist()
    pack = place_of(case, len(offsets) - 1)
    tokens, state = (1, offsets[pack], offsets[pack + 1]), (0, pack, pack + 1)
    parts = dict.fromkeys([*TOKEN_INPUTS[case.op], "out"], tokens)
    return {**parts, "initial_state": state, "final_state": state}


def _is_row(name: str, value: Tensor, batch: int) -> bool:
    shared = ("weight", "sinks", "A_log", "a_log", "dt_bias")
    return not name.endswith(shared) and value.dim() > 1 and value.shape[0] == batch and value.is_floating_point()


def _part(case: Case, value: Tensor, unit: tuple[int, int, int]) -> Tensor:
    """Returns where a tensor belongs to the part that is not a number."""
    axis, first, last = unit
    inside = torch.zeros(value.shape, dtype=torch.bool)
    part = inside.narrow(axis, first, last - first)
    if case.op in _BY_TOKEN:
        part = part.narrow(1, place_of(case, value.shape[1]), 1)
    part.fill_(True)  # noqa: FBT003 - torch's own signature
    return inside


def _not_a_number(case: Case, inputs: Inputs) -> Inputs:
    units = _units(case, inputs)
    return changed(inputs, {
        name: value.masked_fill(_part(case, value, units[name]), torch.nan)
        for name, value in inputs.tensors.items() if name in units
    })  # fmt: skip


def _nothing_spreads(case: Case, first: Inputs, _: Inputs, one: Tensors, other: Tensors) -> Outcome:
    units = _units(case, first)
    inside = {name: _part(case, one[name], units[name.removeprefix(GRAD)])
              for name in one if name.removeprefix(GRAD) in units}  # fmt: skip
    power = any(bool((differs(one[name], other[name]) & part).any()) for name, part in inside.items() if name in other)
    what = "elements elsewhere change when a row, token or sequence is not a number"
    return unchanged(one, other, {name: ~part for name, part in inside.items()}, what, has_power=power)


def _has_others(case: Case) -> bool:
    packed = getattr(case, "sequence_lengths", ()) or getattr(case, "query_lengths", ())
    if packed:
        return len(packed) > 1
    return getattr(case, "batch", 1) > 1 or (case.op in _BY_TOKEN and getattr(case, "tokens", 1) > 1)


def _always(case: Case) -> bool:  # noqa: ARG001 - one signature
    return True


def _sees_some(case: Case) -> bool:
    return case.op not in HIDDEN_STILL_ASK or bool(getattr(case, "is_causal", False) or getattr(case, "key_mask", 0))


TOKENS: Mapping[str, Exact] = {
    "unseen_token": Exact(
        ops=frozenset(TOKEN_INPUTS), applies=_sees_some, vary=_another_token, compare=_only_seen
    ),
    "hidden_tokens": Exact(
        ops=frozenset(TOKEN_INPUTS), applies=_may_hide, vary=_hidden_moved, compare=_nothing_moves,
        control=_seen_moved,
    ),
    "one_cotangent": Exact(
        ops=frozenset(TOKEN_INPUTS), applies=_always, vary=_one_cotangent, compare=_only_seen_gradients
    ),
    "not_a_number_elsewhere": Exact(
        ops=frozenset({*TOKEN_INPUTS, *_BY_TOKEN}), applies=_has_others, vary=_not_a_number, compare=_nothing_spreads
    ),
}  # fmt: skip
"""Properties of tokens, rows and sequences by name."""
