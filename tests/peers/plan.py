"""Which cases each peer is judged on: drawn ones, fitted to what it computes at all, and one that it declines.

Layers of a model have no options of their own: a causal Qwen3 layer with its norms would decline all but one drawn case
in a hundred. The fields that a peer fixes are therefore set before it is asked; what it declines then is left out.
"""

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.campaign import Item
from harness.errors import UsageError
from harness.operations.base import Inputs, Operation
from harness.operations.case import Case
from harness.ops import OPS
from harness.strategies import draw_cases
from optimized.candidate import Candidate

__all__ = ["FIXED", "LARGEST", "planned", "sentence"]

LARGEST = 40
"""Largest number of tokens: Triton's interpreter takes a second and more for one program."""

_DRAWN = 60
"""Cases that a peer chooses from."""

_CAUSAL = {"is_causal": True}
_QWEN3 = {
    **_CAUSAL, "rope_style": "half", "rope_dim": None, "enable_output_gate": False, "qk_norm_zero_centered": False,
    "qk_norm_eps": 1e-6,
}  # fmt: skip

FIXED: Mapping[str, Mapping[str, Any]] = {
    "torch-sdpa*": {"sinks": False},
    "torch-flex*": {"sinks": False, "bias": "none"},
    "torch-rms-norm*": {"zero_centered": False},
    "transformers-llama-*": {**_QWEN3, "qk_norm_eps": None},
    "transformers-qwen3-attention*": _QWEN3,
    "transformers-qwen3-next-attention*": {**_QWEN3, "enable_output_gate": True, "qk_norm_zero_centered": True},
    "transformers-deepseek-v2-[bf]*": {**_CAUSAL, "rope_style": "interleaved", "norm_eps": 1e-6, "hidden_size": 24},
    "transformers-deepseek-v3-[bfs]*": {**_CAUSAL, "norm_eps": 1e-6},
    "transformers-gpt-oss-[bf]*": {"sinks": True, "bias": "none"},
    "transformers-gpt-oss-layer*": {**_CAUSAL, "sinks": True},
    "transformers-*-delta-net*": {"gate": "mamba"},
    "transformers-*-delta-rule*": {"sequence_lengths": ()},
    "transformers-qwen3-next-norm*": {"zero_centered": True},
    "transformers-*-norm*": {"zero_centered": False},
    "fla-naive-*": {"sequence_lengths": (), "normalize_qk": False},
    "fla-rms-norm*": {"zero_centered": False},
    "fla-short-conv*": {"taps": 4},
    "liger-rms-norm-llama*": {"zero_centered": False},
    "liger-rope*": {"style": "half"},
    "d9d-gqa-eager-boolean-mask*": {"key_mask": True},
    "d9d-mla-*": {"value_dim": 6},
    "d9d-eager-sdpa*": {"bias": "none"},
    "transformers-rope-*": {"style": "half"},
    "transformers-deepseek-*-rope*": {"style": "interleaved"},
}
"""Fields of a case that are set for the candidates of a pattern; the first pattern that fits counts."""


def planned(candidates: Sequence[Candidate], *, cases: int, seed: int) -> list[Item]:
    """Returns the work of a plug-in: every case on all candidates that take it.

    Args:
        candidates: of one plug-in.
        cases: cases that each of them is judged on.
        seed: of the draw.
    """
    chosen: dict[str, tuple[Case, list[str]]] = {}
    for candidate in candidates:
        for case in _cases_of(candidate, cases, seed):
            chosen.setdefault(case.case_id, (case, []))[1].append(candidate.name)
    return [Item(case, tuple(names)) for case, names in chosen.values()]


def _cases_of(candidate: Candidate, count: int, seed: int) -> list[Case]:
    """Returns cases that a candidate takes, of all regimes in turn, and one that it declines."""
    row = OPS[candidate.op]
    pool = draw_cases(row, _DRAWN, seed_value=seed, dtypes=[candidate.recipe.storage], largest=LARGEST)
    taken: dict[str, Case] = {}
    declined = [case for case in pool if sentence(candidate, row, case)][:1]
    for case in _fitted(candidate.name, pool):
        if len(taken) < count and sentence(candidate, row, case) is None:
            taken[case.case_id] = case
    return [*taken.values(), *declined]


def _fitted(name: str, pool: Sequence[Case]) -> Iterator[Case]:
    """Yields the cases of a pool, hard kinds first, with the fields that a candidate fixes."""
    changes = next((fields for pattern, fields in FIXED.items() if fnmatch.fnmatch(name, pattern)), {})
    for case in pool:
        known = case.to_data()
        try:
            yield case.replaced(**{field: value for field, value in changes.items() if field in known})
        except UsageError:
            continue


def sentence(candidate: Candidate, row: Operation, case: Case) -> str | None:
    """Returns why a candidate declines a case, or None."""
    if candidate.supports is None:
        return None
    inputs: Inputs = row.inputs(case)
    args, kwargs = row.arrange(inputs.tensors, inputs.options)
    return candidate.supports(*args, **kwargs)
