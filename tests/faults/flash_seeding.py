"""How a fault of one step of ``Flash`` becomes a fault of the catalogue."""

from collections.abc import Callable
from functools import cache
from typing import Any

from harness.power.fault import Fault
from tests.faults.flash import Flash, tensor_core
from tests.faults.seeding import Call, seeded

__all__ = ["tiled"]


@cache
def _healthy(splits: int) -> Callable[[], Call]:
    """Returns one loader per number of splits, so that the twins of all faults are known to be one function."""
    return lambda: Flash(splits).attention


def tiled(number: str, name: str, faulty: type[Flash], *, splits: int = 1, **rest: Any) -> Fault:
    """Returns a fault of ``attention`` whose healthy twin is ``Flash`` with as many splits.

    Args:
        number: id in the catalogue of real bugs.
        name: what is wrong, lower case with dashes.
        faulty: ``Flash`` with a step overridden.
        splits: parts of the keys that are merged by their LSE.
        rest: the other arguments of ``seeded``.
    """
    return seeded(
        number, name, "attention", lambda _: faulty(splits).attention,
        base=_healthy(splits), recipe=tensor_core, **rest,
    )  # fmt: skip
