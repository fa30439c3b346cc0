"""Hypothesis strategies of whole cases, and lists of cases drawn from them.

Configurations are drawn, never arrays; valid cases are built, never filtered. The same seed gives the same cases.
"""

import zlib
from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from harness.operations.base import Operation
from harness.operations.case import COTANGENTS, LAYOUTS, Case

__all__ = ["DTYPES", "cases", "draw_cases"]

DTYPES: tuple[str, ...] = ("float32", "bfloat16", "float16")

_SPARE = 8
"""Examples beyond those wanted: hypothesis starts every draw with the simplest case, which is often known already."""


def cases(
    row: Operation, *, dtypes: Sequence[str] = DTYPES, regimes: Sequence[str] | None = None, largest: int = 100
) -> st.SearchStrategy[Case]:
    """Returns a strategy of cases of an operation.

    Args:
        row: the operation.
        dtypes: storage dtypes to draw from.
        regimes: value regimes to draw from; all of the operation's if None.
        largest: largest number of tokens.
    """
    common = {
        "dtype": st.sampled_from(list(dtypes)),
        "layout": st.sampled_from([LAYOUTS[0], *LAYOUTS]),
        "regime": st.sampled_from(list(regimes or row.case.regimes)),
        "cotangent": st.sampled_from([COTANGENTS[0], *COTANGENTS]),
        "seed": st.integers(0, 2**31 - 1),
    }

    def build(shape: dict[str, Any], fields: dict[str, Any]) -> Case:
        return row.case(**shape, **fields)

    return st.builds(build, row.strategy(largest), st.fixed_dictionaries(common))


def draw_cases(
    row: Operation,
    count: int,
    *,
    seed_value: int,
    dtypes: Sequence[str] = DTYPES,
    regimes: Sequence[str] | None = None,
    largest: int = 100,
) -> list[Case]:
    """Returns ``count`` different cases, the same for the same arguments, as many of each dtype.

    Hypothesis likes small numbers and repeats what it drew before; regimes are therefore taken in turn, and the seed of
    the values is made anew for every case, so that no two cases share their values.
    """
    drawn: dict[str, Case] = {}
    pool = list(regimes or row.case.regimes)
    for index, dtype in enumerate(dtypes):
        share = (count + len(dtypes) - 1 - index) // len(dtypes)
        for case in _draw(cases(row, dtypes=[dtype], regimes=regimes, largest=largest), share, seed_value):
            fresh = zlib.crc32(f"{seed_value}:{len(drawn)}:{row.name}".encode()) >> 1
            seeded = case.replaced(seed=fresh, regime=pool[len(drawn) % len(pool)])
            drawn[seeded.case_id] = seeded
    return list(drawn.values())


def _draw(strategy: st.SearchStrategy[Case], count: int, seed_value: int) -> list[Case]:
    drawn: dict[str, Case] = {}
    for attempt in range(100):
        missing = count - len(drawn)
        if missing <= 0:
            break

        @seed(seed_value * 1009 + attempt)
        @settings(
            max_examples=missing + _SPARE, database=None, deadline=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(strategy)
        def collect(case: Case) -> None:
            drawn.setdefault(case.case_id, case)

        collect()
    return list(drawn.values())[:count]
