"""Hypothesis strategies of whole cases, and lists of cases drawn from them.

Configurations are drawn, never arrays; valid cases are built, never filtered. The same seed gives the same cases.
"""

from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from harness.operations.base import COTANGENTS, LAYOUTS, Case, Operation

__all__ = ["DTYPES", "cases", "draw_cases"]

DTYPES: tuple[str, ...] = ("float32", "bfloat16", "float16")


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
    # A seed spread over the whole range: hypothesis prefers small integers, and equal seeds share their values.
    seeds = st.randoms(use_true_random=False).map(lambda random: random.getrandbits(31))
    common = {
        "dtype": st.sampled_from(list(dtypes)),
        "layout": st.sampled_from([LAYOUTS[0], *LAYOUTS]),
        "regime": st.sampled_from(list(regimes or row.case.regimes)),
        "cotangent": st.sampled_from([COTANGENTS[0], *COTANGENTS]),
        "seed": seeds,
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
    """Returns ``count`` different cases, the same for the same arguments."""
    drawn: dict[str, Case] = {}
    for attempt in range(100):
        missing = count - len(drawn)
        if missing <= 0:
            break

        @seed(seed_value * 1009 + attempt)
        @settings(
            max_examples=missing, database=None, deadline=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(cases(row, dtypes=dtypes, regimes=regimes, largest=largest))
        def collect(case: Case) -> None:
            drawn.setdefault(case.case_id, case)

        collect()
    return list(drawn.values())[:count]
