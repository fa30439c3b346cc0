"""How a fault of the catalogue is built from what is wrong with it."""

from collections.abc import Callable, Mapping
from typing import Any

from harness.power.fault import Fault
from optimized.candidate import Candidate, Recipe
from tests.variants.correct import SUFFIXES, correct

__all__ = ["BOTH", "HALF", "SINGLE", "Call", "seeded"]

Call = Callable[..., Any]

BOTH: tuple[str, ...] = ("float32", "bfloat16")
HALF: tuple[str, ...] = ("bfloat16",)
SINGLE: tuple[str, ...] = ("float32",)


def seeded(
    number: str,
    name: str,
    op: str,
    seed: Callable[[Call], Call],
    *,
    what: str,
    source: str,
    detectors: tuple[str, ...],
    phase: str = "forward",
    storages: tuple[str, ...] = BOTH,
    reach: Mapping[str, Any] | None = None,
    regimes: tuple[str, ...] = (),
    largest: int = 40,
    base: Callable[[], Call] | None = None,
    recipe: Callable[[str], Recipe] | None = None,
    differentiable: bool = True,
    deterministic: bool = False,
) -> Fault:
    """Returns a fault with a pair per storage dtype.

    Args:
        number: id in the catalogue of real bugs, ``"B032"``.
        name: what is wrong, lower case with dashes.
        op: the operation.
        seed: makes the faulty callable of the healthy one.
        what: one sentence for the table.
        source: where it really happened.
        detectors: kinds of check that can find it.
        phase: ``forward``, or ``gradient`` where every output is right.
        storages: dtypes in which it is seeded.
        reach: fields that a case needs for the fault to show.
        regimes: value regimes in which it can show; all if empty.
        largest: largest number of tokens of its cases.
        base: loads the healthy callable; the plain torch implementation of the operation if None.
        recipe: of that callable by storage dtype; that of the plain implementation if None.
        differentiable: whether the callable has gradients.
        deterministic: whether the same bits are promised.
    """

    def pair(storage: str) -> tuple[Candidate, Candidate]:
        plain = correct(op, storage)
        load = base or plain.load
        promise = plain.recipe if recipe is None else recipe(storage)
        stem = f"{number.lower()}-{op.replace('_', '-')}-{name}"

        def candidate(title: str, loader: Callable[[], Call]) -> Candidate:
            return Candidate(
                name=f"{title}-{SUFFIXES[storage]}", op=op, load=loader, recipe=promise,
                differentiable=differentiable, devices=("cpu",), deterministic=deterministic,
            )  # fmt: skip

        return candidate(stem, lambda: seed(load())), candidate(f"{stem}-healthy", load)

    return Fault(
        id=number, name=name, op=op, what=what, source=source, detectors=detectors, phase=phase,
        pairs={storage: pair(storage) for storage in storages}, reach=dict(reach or {}), regimes=regimes,
        largest=largest,
    )  # fmt: skip
