"""The correct implementation that dumb and faulty candidates are made of: the project's own in plain torch."""

from collections.abc import Mapping

from optimized.candidate import Candidate
from optimized.catalogue import CANDIDATES

__all__ = ["SUFFIXES", "correct"]

SUFFIXES: Mapping[str, str] = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
"""Ending of a candidate's name by storage format."""

_CORRECT = {
    (item.op, item.recipe.storage): item
    for item in CANDIDATES
    if item.name == f"torch-{item.op.replace('_', '-')}-{SUFFIXES.get(item.recipe.storage)}"
    or (item.op == "gated_delta_rule" and item.name == f"torch-delta-rule-{SUFFIXES.get(item.recipe.storage)}")
}


def correct(op: str, storage: str) -> Candidate:
    """Returns the plain candidate of an operation in a storage format."""
    return _CORRECT[op, storage]
