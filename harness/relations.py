"""Checks that need no tolerance: properties that hold bit by bit, each with a control that must show a difference.

``future``: where the last token is hidden from all earlier ones (causal attention, recurrences, causal convolutions),
another last token must not change a bit of what comes before. The control is the last token's own result: if it does
not change either, the candidate ignores its input and the relation says NO_POWER.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from harness.execute import Answer
from harness.operations.base import Operation
from harness.operations.case import Case
from harness.records import Relation, Verdict

__all__ = ["check_relations", "is_causal"]

_ONE_IN = 4
"""Relations cost one more call each, so that one case in four is checked; the seed decides which."""

_TOKENS_SECOND = {"short_conv", "gated_delta_rule", "gated_delta_net", "grouped_query_attention", "attention",
                  "multi_head_latent_attention", "flash_sdpa"}  # fmt: skip


def is_causal(case: Case) -> bool:
    """Returns whether earlier tokens cannot see the last one."""
    if case.op in {"short_conv", "gated_delta_net"}:
        return True
    if case.op == "gated_delta_rule":
        return not getattr(case, "sequence_lengths", ())
    if case.op == "attention":
        square = getattr(case, "query_tokens", 0) == getattr(case, "key_tokens", 1)
        return square and getattr(case, "window_right", None) == 0
    if case.op == "flash_sdpa":
        return getattr(case, "query_tokens", 0) == getattr(case, "key_tokens", 1) and bool(
            getattr(case, "is_causal", False)
        )
    return bool(getattr(case, "is_causal", False))


def check_relations(
    row: Operation, case: Case, answer: Answer, again: Callable[[str | None], Answer]
) -> list[Relation]:
    """Returns the relations of a case that passed.

    Args:
        row: the operation.
        case: the case.
        answer: what the candidate returned.
        again: runs the candidate on a variation of the inputs, or on the same ones for None.
    """
    if row.name not in _TOKENS_SECOND or case.seed % _ONE_IN or not is_causal(case) or "out" not in answer.tensors:
        return []
    out = answer.tensors["out"]
    if out.shape[1] < 2:
        return []
    other = again("future")
    if other.status == "unsupported":
        return []  # the other values are not the candidate's business
    if other.status != "ok":
        reason = str(other.header.get("sentence") or other.status)
        return [Relation(name="future", verdict=Verdict.ERROR, reason=f"future: {reason}")]
    found = _future(out, other.tensors["out"])
    if found.verdict is Verdict.FAIL_RELATION:
        same = again(None)
        if same.status == "ok" and not bool(_same(out, same.tensors["out"]).all()):
            reason = "future: the candidate returns other bits for the same inputs, so that nothing can be said"
            return [Relation(name="future", verdict=Verdict.NO_POWER, reason=reason)]
    return [found]


def _same(one: Tensor, other: Tensor) -> Tensor:
    """Returns where two results are the same number, or both not a number."""
    return (one == other) | (torch.isnan(one) & torch.isnan(other))


def _future(out: Tensor, other: Tensor) -> Relation:
    changed = ~_same(out[:, :-1], other[:, :-1])
    if bool(changed.any()):
        count = int(changed.sum().item())
        reason = f"future: {count} elements before the last token changed with the last token"
        return Relation(name="future", verdict=Verdict.FAIL_RELATION, reason=reason)
    if torch.equal(out[:, -1], other[:, -1]):
        return Relation(
            name="future", verdict=Verdict.NO_POWER, reason="future: nothing changed at the last token either"
        )
    return Relation(name="future", verdict=Verdict.PASS)
