"""Plug-in of legal executions, each unlike the project's own candidates: every one must pass, always.

``attest fuzz --op attention --plugin tests/variants/healthy.py``, from the root of the checkout.
"""

from collections.abc import Callable
from typing import Any

from optimized.candidate import Candidate, Recipe
from tests.variants import attentions, delta_rules, elementwise, stacks
from tests.variants.recipes import FORMATS, Row

__all__ = ["CANDIDATES", "ROWS"]

ROWS: tuple[Row, ...] = (*attentions.ROWS, *delta_rules.ROWS, *elementwise.ROWS, *stacks.ROWS)
"""Name, operation, callable and recipe of every execution."""


def _candidate(name: str, op: str, call: Callable[..., Any], recipe: Recipe) -> Candidate:
    return Candidate(name=name, op=op, load=lambda: call, recipe=recipe, devices=("cpu",))


CANDIDATES: tuple[Candidate, ...] = tuple(
    _candidate(f"{name}-{suffix}", op, call, recipe(storage))
    for name, op, call, recipe in ROWS
    for suffix, storage in FORMATS.items()
)
"""One candidate per execution and storage format."""
