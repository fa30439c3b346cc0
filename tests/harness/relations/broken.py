"""Plug-in of candidates that are right on every single call of a case and break a relation between calls."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from optimized.candidate import Candidate
from tests.variants.correct import correct

__all__ = ["BREAKS", "CANDIDATES"]

Call = Callable[..., Any]


def _first(result: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return change(result) if isinstance(result, Tensor) else (change(result[0]), *result[1:])


def _wrong_when(condition: Callable[[tuple[Any, ...], dict[str, Any]], bool]) -> Callable[[Call], Call]:
    """Returns a fault that halves the first output where a condition of the call holds."""

    def seed(base: Call) -> Call:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = base(*args, **kwargs)
            return _first(result, lambda out: out / 2) if condition(args, kwargs) else result

        return call

    return seed


def _leads(item: Tensor) -> bool:
    """Returns whether the first row of the batch has a larger sum than the last."""
    sums = item.float().flatten(1).sum(1)
    return bool(sums[0] > sums[-1])


def _wrong_at_the_second(base: Call) -> Call:
    """Is right for values that it has not seen, and wrong for those of the call before."""
    last: list[float] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        mark = float(args[0].double().sum())
        result = base(*args, **kwargs)
        seen, last[:] = mark in last, [mark]
        return _first(result, lambda out: out / 2) if seen else result

    return call


def _cached_by_shape(base: Call) -> Call:
    """Keeps how it addressed the last tensor of a shape, whatever the strides (B010)."""
    strides: dict[tuple[int, ...], tuple[int, ...]] = {}

    def call(*args: Any, **kwargs: Any) -> Any:
        known = strides.get(tuple(args[0].shape), args[0].stride())
        strides[tuple(args[0].shape)] = args[0].stride()
        result = base(*args, **kwargs)
        return result if known == args[0].stride() else _first(result, lambda out: out.flip(0) / 2)

    return call


def _future_leaks(base: Call) -> Call:
    return lambda *args, **kwargs: _first(base(*args, **kwargs), lambda out: out + out[:, -1:] * 2.0**-25)


def _finite_mask(base: Call) -> Call:
    """Hides keys by taking 10000 from their logits, which a large logit outweighs."""

    def call(query: Tensor, key: Tensor, value: Tensor, *, key_mask: Tensor | None = None, **kwargs: Any) -> Any:
        if key_mask is None:
            return base(query, key, value, **kwargs)
        bias = torch.where(key_mask, 0.0, -10000.0).to(query.dtype)[:, None, None]
        out, lse = base(query, key, value, bias=bias, **kwargs)
        sees = key_mask.any(1)[:, None, None]
        return torch.where(sees[..., None], out, 0.0), torch.where(sees, lse, -torch.inf)

    return call


def _gradient_leaks(base: Call) -> Call:
    """Adds a trace of the gradients of all values to each of them, too small for a bias over the whole tensor."""

    def call(query: Tensor, key: Tensor, value: Tensor, **kwargs: Any) -> Any:
        trace = value.sum() * 2.0**-32
        return base(query, key, value + (trace - trace.detach()), **kwargs)

    return call


def _mixes_rows(base: Call) -> Call:
    """Adds nothing to every row, computed from all of them."""
    return lambda x, *args, **kwargs: base(x + x.detach().sum() * 0, *args, **kwargs)


def _not_linear(base: Call) -> Call:
    """Rounds to a grid that does not scale with the values."""

    def grid(out: Tensor) -> Tensor:
        return out + ((out * 2.0**26).round() * 2.0**-26 - out).detach()

    return lambda *args, **kwargs: _first(base(*args, **kwargs), grid)


def _writes_without_beta(base: Call) -> Call:
    def call(*args: Any, **kwargs: Any) -> Any:
        return base(*args[:4], args[4] + 2.0**-40, **kwargs)

    return call


def _leaky_mark(base: Call) -> Call:
    """Adds a trace of the mean of the values, as unmasked weights of hidden keys would."""

    def call(query: Tensor, key: Tensor, value: Tensor, **kwargs: Any) -> Any:
        group = query.shape[2] // key.shape[2]
        mean = value.mean(1, keepdim=True).repeat_interleave(group, 2)
        return _first(base(query, key, value, **kwargs), lambda out: out + mean * 2.0**-22)

    return call


def _forgets(base: Call) -> Call:
    def call(*args: Any, **kwargs: Any) -> Any:
        return base(args[0], args[1], args[2], *args[3:4], args[4] * (1 - 2.0**-23), **kwargs)

    return call


def _turns_badly(base: Call) -> Call:
    """Is off by one unit in the last place where every angle is 0 or a quarter turn."""

    def call(x: Tensor, cos: Tensor, sin: Tensor, **kwargs: Any) -> Any:
        out = base(x, cos, sin, **kwargs)
        return out * (1 + 2.0**-23) if bool(((cos == 0) | (cos == 1)).all()) else out

    return call


# Each fault reads what it needs of a call.
# ruff: noqa: ARG005
BREAKS: dict[str, tuple[str, Callable[[Call], Call]]] = {
    "run_twice": ("rms_norm", _wrong_at_the_second),
    "for_inference": ("rms_norm", _wrong_when(lambda args, kwargs: not torch.is_grad_enabled())),
    "after_other_calls": ("rms_norm", _cached_by_shape),
    "other_strides": ("rms_norm", _wrong_when(lambda args, kwargs: not args[0].is_contiguous())),
    "batch_permuted": ("rms_norm", _wrong_when(lambda args, kwargs: not _leads(args[0]))),
    "row_by_row": ("rms_norm", _wrong_when(lambda args, kwargs: args[0].shape[0] == 1)),
    "heads_permuted": ("attention", _wrong_when(lambda args, kwargs: bool(args[2][0, 0, 0, 0] < args[2][0, 0, -1, 0]))),
    "heads_repeated": ("attention", _wrong_when(lambda args, kwargs: args[0].shape[2] == args[1].shape[2])),
    "hidden_keys_prepended": ("attention", _wrong_when(lambda args, kwargs: kwargs.get("key_mask") is not None)),
    "huge_window": ("attention", _wrong_when(lambda args, kwargs: (kwargs["window"][0] or 0) > args[1].shape[1])),
    "sinks_of_nothing": ("attention", _wrong_when(lambda args, kwargs: kwargs.get("sinks") is not None)),
    "keys_split": ("attention", lambda base: lambda *args, **kwargs: _lse_in_base(base, *args, **kwargs)),
    "two_runs": ("gated_delta_rule", _wrong_when(lambda args, kwargs: kwargs.get("initial_state") is not None)),
    "decay_of_zero": ("gated_delta_rule", _wrong_when(lambda args, kwargs: args[3] is not None)),
    "sequences_apart": ("varlen_attention", _wrong_when(lambda args, kwargs: len(args[3]) == 2)),
    "rule_sequences_apart": ("gated_delta_rule", _wrong_when(lambda args, kwargs: kwargs.get("cu_seqlens") is None)),
    "unseen_token": ("gated_delta_rule", _future_leaks),
    "hidden_tokens": ("attention", _finite_mask),
    "one_cotangent": ("attention", _gradient_leaks),
    "not_a_number_elsewhere": ("rms_norm", _mixes_rows),
    "values_doubled": ("gated_delta_rule", _not_linear),
    "one_key_with_weight": ("attention", _leaky_mark),
    "beta_of_zero": ("gated_delta_rule", _writes_without_beta),
    "exact_memory": ("gated_delta_rule", _forgets),
    "quarter_turns": ("rope", _turns_badly),
}
"""By relation, the operation and the fault that breaks it."""


def _lse_in_base(base: Call, query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Gives an LSE that is off where few keys are seen, as after a split."""
    out, lse = base(query, key, *args, **kwargs)
    return out, lse if key.shape[1] > 8 else lse * 1.4427


def _candidate(relation: str, op: str, seed: Callable[[Call], Call] | None) -> Candidate:
    plain = correct(op, "float32")
    return Candidate(
        name=f"{'breaks' if seed else 'keeps'}-{relation.replace('_', '-')}", op=op,
        load=lambda: seed(plain.load()) if seed else plain.load(), recipe=plain.recipe, devices=("cpu",),
    )  # fmt: skip


CANDIDATES: tuple[Candidate, ...] = tuple(
    _candidate(relation, op, chosen) for relation, (op, seed) in BREAKS.items() for chosen in (seed, None)
)
"""A candidate that breaks each relation, and one that keeps it."""
