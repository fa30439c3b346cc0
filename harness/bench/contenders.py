"""Who is timed at the standard shapes of an operation: ours, the compiled textbook, and other people's kernels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from harness.bench.peers import PEERS, prepare_compiler
from harness.candidates import find_candidates
from optimized.candidate import Candidate, Recipe

__all__ = ["Contender", "contenders"]

_WHOLE_SCORES = ("attention", "gated_delta_rule")
"""Operations whose textbook form stores what the fused ones avoid, or walks token by token: not timed."""


@dataclass(frozen=True, slots=True)
class Contender:
    """Who is timed.

    Attributes:
        name: shown in the rows; of ours it is the candidate's.
        load: returns the callable, of the operation's call.
        recipe: by which it is judged.
        is_ours: whether it must pass before it is timed.
        states_recipe: whether the recipe is its own; else it is that of ours, which its authors never promised.
    """

    name: str
    load: Callable[[], Callable[..., Any]]
    recipe: Recipe
    is_ours: bool = False
    states_recipe: bool = True


def contenders(op: str, dtype: str, device: str) -> list[Contender]:
    """Returns ours, the compiled textbook and the peers of an operation; kernels of a GPU only where there is one."""
    ours = [
        item for item in find_candidates().candidates.values()
        if item.op == op and item.recipe.storage == dtype and device in item.devices and item.differentiable
    ]  # fmt: skip
    fused = [item for item in ours if item.name.startswith(("triton-", "flash4-")) and device == "cuda"]
    plain = [item for item in ours if item.name.startswith("torch-") and (op not in _WHOLE_SCORES or device == "cpu")]
    found = [Contender(item.name, load=item.load, recipe=item.recipe, is_ours=True) for item in (*fused, *plain)]
    if device == "cuda":
        found += [Contender(f"compiled-{item.name}", load=_compiled(item), recipe=item.recipe) for item in plain]
    recipe = (fused or ours)[0].recipe
    peers = PEERS.get(op, {}).items()
    return [*found, *(Contender(name, load=make, recipe=recipe, states_recipe=False) for name, make in peers)]


def _compiled(candidate: Candidate) -> Callable[[], Callable[..., Any]]:
    def load() -> Callable[..., Any]:
        prepare_compiler()
        made: Callable[..., Any] = torch.compile(candidate.load())
        return made

    return load
