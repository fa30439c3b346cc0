"""The smallest error that the judge sees: errors of known size, planted into legal executions, on a ladder of doses.

An execution is one random legal run of the emulator, with a seed that no budget has. The error is added in float64 and
the sum is then stored, as in a kernel: planted after the store, a small error would be rounded away again. A dose is
caught where the judge fails the operation's first output, by the budget of every day and by that of more samples.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from harness.budget import emulated
from harness.cases import case_from_data
from harness.emulators.arithmetic import Arithmetic
from harness.emulators.rounding import Random
from harness.judge import judge, stored_dtype
from harness.operations.base import Inputs, Operation
from harness.operations.case import Case
from harness.pool import pooled
from harness.power_results import Resolution
from harness.records import Judgement, Record, Verdict
from harness.truth import promote
from harness.verify import MORE, Shared
from optimized.candidate import Recipe

__all__ = ["CHANCE", "LADDER", "SHAPES", "Doses", "resolution_cases", "resolve", "smallest_doses"]

LADDER: tuple[float, ...] = tuple(10.0 ** (step / 8) for step in range(-64, 1))
"""Doses from 1e-8 to 1, a third apart."""

CHANCE = 0.95
"""Share of the cases that must catch a dose."""

SHAPES: Mapping[str, Mapping[str, Any]] = {
    "attention": {
        "batch": 1, "query_tokens": 64, "key_tokens": 64, "key_heads": 2, "group": 2, "head_dim": 64,
        "value_dim": 64, "window_right": 0,
    },
    "gated_delta_rule": {
        "batch": 1, "tokens": 64, "key_heads": 2, "group": 1, "key_dim": 64, "value_dim": 64,
    },
    "rms_norm": {"batch": 1, "tokens": 64, "channels": 256},
}  # fmt: skip
"""The case of each operation; only the seed differs, so that a dose means the same in all of them."""

_DTYPES = ("float32", "bfloat16")
_UNSEEN = 0x5EED
"""Added to the seed of a case: budgets use others."""

Effect = Callable[[float], Tensor]
"""What a dose adds to the exact output, in float64."""


def resolution_cases(counts: Mapping[str, int], ops: Collection[str] = tuple(SHAPES)) -> list[Case]:
    """Returns so many cases of every operation's shape in every dtype, of the operations among ``ops``."""
    return [
        case_from_data({"op": op, **fields, "dtype": dtype, "seed": 7919 * number + 1})
        for op, fields in SHAPES.items()
        if op in ops
        for number in range(counts.get(op, 0))
        for dtype in _DTYPES
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Doses:
    """What planted errors showed on one case.

    Attributes:
        case: the case.
        smallest: by kind of error, the smallest dose that is caught; infinity where none is. A kind that does nothing
            on the case is missing.
        legal: the judgement of the execution without an error, for pooling.
    """

    case: Case
    smallest: Mapping[str, float]
    legal: Judgement


def smallest_doses(case: Case) -> Doses:
    """Returns what planted errors show on a case."""
    shared = Shared(case)
    planted = _Planted(shared, Recipe(storage=case.dtype, operand=case.dtype, accumulator="float32"))
    found = {}
    for kind, effect in _effects(shared, planted.exact).items():
        if bool(effect(1.0).any()):
            found[kind] = _smallest(planted, effect)
    return Doses(case=case, smallest=found, legal=planted.judged(torch.zeros_like(planted.exact)))


def resolve(found: Sequence[Doses]) -> list[Resolution]:
    """Returns the resolution by operation, dtype and kind, from the smallest doses of all cases."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for each in found:
        for kind, dose in each.smallest.items():
            groups.setdefault((each.case.op, each.case.dtype, kind), []).append(dose)
    single = [
        Resolution(
            op=op, dtype=dtype, kind=kind, dose=_quantile(doses, CHANCE), median=_quantile(doses, 0.5),
            cases=len(doses),
        )
        for (op, dtype, kind), doses in sorted(groups.items())
    ]  # fmt: skip
    return [*single, *_pooled_gains(found)]


def _pooled_gains(found: Sequence[Doses]) -> list[Resolution]:
    """Returns the gain that the cases show together.

    A gain of the kernel moves the pooled estimate by itself, so that no dose has to be planted: it is beyond the limit
    with the wanted chance when it is that many standard errors above.
    """
    above = NormalDist().inv_cdf(CHANCE)
    return [
        Resolution(
            op=item.op, dtype=item.dtype, kind="pooled gain", dose=item.limit + above * item.error, median=item.limit,
            cases=item.cases,
        )
        for item in sorted(pooled([_record(each) for each in found]), key=lambda item: (item.op, item.dtype))
        if item.test == "gain"
    ]  # fmt: skip


def _record(each: Doses) -> Record:
    """Returns a record of the execution without an error."""
    case = each.case
    return Record(
        case=case.to_data(), case_id=case.case_id, candidate="legal", recipe={}, verdict=each.legal.verdict,
        reason=each.legal.reason, judgements=[each.legal], environment={}, seed=case.seed, started="",
    )  # fmt: skip


def _quantile(doses: Sequence[float], share: float) -> float | None:
    """Returns the smallest dose that at least this share of the cases catches; None where none is."""
    dose = sorted(doses)[math.ceil(share * len(doses)) - 1]
    return dose if math.isfinite(dose) else None


class _Planted:
    """A legal execution before its last store, into which errors are planted."""

    def __init__(self, shared: Shared, recipe: Recipe) -> None:
        row = shared.row
        self.shared, self.recipe = shared, recipe
        self.name = row.outputs[0].name
        self.names = tuple(output.name for output in row.outputs)
        self.exact = shared.expected(self.names, with_gradients=False).expected[self.name]
        arithmetic = Arithmetic(recipe, Random(1, shared.case.seed + _UNSEEN), tile=row.tiles[-1])
        self.legal = emulated(row, shared.inputs, arithmetic, [self.name])[self.name][0]

    def is_caught(self, effect: Tensor) -> bool:
        """Returns whether the judge fails the execution with an error in it."""
        return self.judged(effect).verdict.is_failure

    def judged(self, effect: Tensor) -> Judgement:
        """Returns the judgement of the execution with an error in it, by more samples unless it passes by few."""
        row, case = self.shared.row, self.shared.case
        actual = (self.legal + effect).to(stored_dtype(row, self.name, case.dtype))
        expected = self.shared.expected(self.names, with_gradients=False)
        tangents = {direction: values[self.name] for direction, values in expected.tangents.items()}
        for factor in (1, MORE):
            budgets = self.shared.budgets(self.names, self.recipe, with_gradients=False, factor=factor)
            judgement = judge(row, self.name, actual, budgets[self.name], tangents, case.dtype)
            if judgement.verdict is Verdict.PASS:
                break
        return judgement


def _smallest(planted: _Planted, effect: Effect) -> float:
    """Returns the smallest dose of the ladder that is caught, by bisection: a larger error is no harder to see."""
    low, high = 0, len(LADDER)
    while low < high:
        middle = (low + high) // 2
        if planted.is_caught(effect(LADDER[middle])):
            high = middle
        else:
            low = middle + 1
    return LADDER[low] if low < len(LADDER) else math.inf


def _effects(shared: Shared, exact: Tensor) -> dict[str, Effect]:
    """Returns the kinds of error of an operation: ``gain``, ``element``, and ``key`` where there are keys."""
    place = shared.case.seed % exact.numel()
    size = exact.square().mean().sqrt()

    def element(dose: float) -> Tensor:
        error = torch.zeros(exact.numel(), dtype=torch.float64)
        error[place] = dose * size
        return error.reshape(exact.shape)

    effects: dict[str, Effect] = {"gain": lambda dose: dose * exact, "element": element}
    change = _KEYS.get(shared.case.op)
    if change is not None:
        effects["key"] = lambda dose: _recomputed(shared.row, shared.inputs, change(shared, dose)) - exact
    return effects


def _attention_key(shared: Shared, dose: float) -> dict[str, Tensor]:
    """Returns the inputs under which one key weighs ``1 + dose`` times as much, before the weights are normalised."""
    tensors = promote(shared.inputs.tensors)
    batch, tokens = tensors["key"].shape[:2]
    more = torch.zeros(batch, 1, 1, tokens, dtype=torch.float64)
    more[..., _token(shared, tokens)] = math.log1p(dose)
    return {**tensors, "bias": tensors["bias"] + more if "bias" in tensors else more}


def _delta_rule_key(shared: Shared, dose: float) -> dict[str, Tensor]:
    """Returns the inputs with one token's beta off."""
    tensors = promote(shared.inputs.tensors)
    beta = tensors["beta"].clone()
    beta[:, _token(shared, beta.shape[1])] *= 1 + dose
    return {**tensors, "beta": beta}


_KEYS: Mapping[str, Callable[[Shared, float], dict[str, Tensor]]] = {
    "attention": _attention_key, "gated_delta_rule": _delta_rule_key,
}  # fmt: skip


def _token(shared: Shared, tokens: int) -> int:
    """Returns a token of the first half: later ones see it."""
    return shared.case.seed % max(1, tokens // 2)


def _recomputed(row: Operation, inputs: Inputs, tensors: Mapping[str, Tensor]) -> Tensor:
    args, options = row.arrange(tensors, inputs.options)
    return row.named(row.reference(*args, **options))[row.outputs[0].name]
