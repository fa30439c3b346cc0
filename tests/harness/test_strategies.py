import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.operations.case import COTANGENTS, LAYOUTS, Case
from harness.ops import OPS
from harness.strategies import DTYPES, cases, draw_cases
from harness.suites import SUITES, suite

TOKENS = ("tokens", "query_tokens", "key_tokens")


@functools.cache
def many(op: str) -> list[Case]:
    """Returns a larger draw, made once."""
    return draw_cases(OPS[op], 200, seed_value=0, largest=40)


def lengths_of(case: Case) -> list[int]:
    """Returns the numbers of tokens of a case, each sequence of a pack on its own."""
    data = case.to_data()
    return [data[name] for name in TOKENS if name in data] + [*data.get("query_lengths", ())]


@pytest.mark.parametrize("op", OPS)
@settings(max_examples=20)
@given(data=st.data(), largest=st.sampled_from([1, 2, 17, 100]))
def test_every_drawn_case_is_valid(op: str, data: st.DataObject, largest: int) -> None:
    case = data.draw(cases(OPS[op], largest=largest))
    assert type(case).from_data(case.to_data()) == case


@pytest.mark.parametrize("op", OPS)
def test_no_case_is_longer_than_asked_for(op: str) -> None:
    drawn = draw_cases(OPS[op], 30, seed_value=1, largest=33)
    # A pack holds up to four sequences of half the length each.
    assert max(length for case in drawn for length in lengths_of(case)) <= 2 * 33


@pytest.mark.parametrize("op", OPS)
def test_the_same_seed_draws_the_same_cases(op: str) -> None:
    assert draw_cases(OPS[op], 9, seed_value=4) == draw_cases(OPS[op], 9, seed_value=4)


@pytest.mark.parametrize("op", OPS)
def test_another_seed_draws_other_cases(op: str) -> None:
    ours, theirs = (draw_cases(OPS[op], 9, seed_value=seed) for seed in (4, 5))
    assert {case.case_id for case in ours}.isdisjoint(case.case_id for case in theirs)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_each_dtype_gets_its_share(op: str, count: int) -> None:
    share = Counter(case.dtype for case in draw_cases(OPS[op], count, seed_value=2))
    assert sum(share.values()) == count
    assert max(share[dtype] for dtype in DTYPES) - min(share[dtype] for dtype in DTYPES) <= 1


@pytest.mark.parametrize("op", OPS)
def test_no_two_cases_share_their_values(op: str) -> None:
    drawn = many(op)
    assert len({case.seed for case in drawn}) == len(drawn)


@pytest.mark.parametrize("op", OPS)
def test_only_the_regimes_asked_for_are_drawn(op: str) -> None:
    regime = OPS[op].case.regimes[-1]
    assert {case.regime for case in draw_cases(OPS[op], 12, seed_value=3, regimes=[regime])} == {regime}


@pytest.mark.parametrize("op", OPS)
def test_every_regime_layout_and_cotangent_occurs(op: str) -> None:
    drawn = many(op)
    assert {case.regime for case in drawn} == set(OPS[op].case.regimes)
    assert {case.layout for case in drawn} == set(LAYOUTS)
    assert {case.cotangent for case in drawn} == set(COTANGENTS)


@pytest.mark.parametrize("op", OPS)
def test_tile_edges_and_their_neighbours_occur(op: str) -> None:
    lengths = {length for case in many(op) for length in lengths_of(case)}
    assert len({1, 15, 16, 17, 31, 32, 33} & lengths) >= 4


@pytest.mark.parametrize(
    "claim",
    [
        pytest.param(lambda case: case["query_tokens"] > case["key_tokens"], id="more-queries-than-keys"),
        pytest.param(lambda case: case["query_tokens"] < case["key_tokens"], id="fewer-queries-than-keys"),
        pytest.param(lambda case: case["head_dim"] < case["value_dim"], id="wider-values"),
        pytest.param(lambda case: case["head_dim"] > case["value_dim"], id="narrower-values"),
        pytest.param(lambda case: case["head_dim"] in (40, 72, 80, 96, 104), id="width-no-power-of-two"),
        pytest.param(lambda case: case["group"] == 3 and case["key_heads"] == 2, id="two-groups-of-three"),
        pytest.param(lambda case: (case["window_left"], case["window_right"]) == (None, 0), id="causal"),
        pytest.param(lambda case: (case["window_left"], case["window_right"]) == (0, 0), id="window-of-one"),
        pytest.param(lambda case: (case["window_left"] or 0) > case["key_tokens"], id="window-wider-than-keys"),
        pytest.param(lambda case: case["sinks"] and case["key_mask"], id="sinks-and-mask"),
        pytest.param(lambda case: case["bias"] == "full", id="bias"),
    ],
)
def test_what_breaks_attention_kernels_occurs(claim: Callable[[dict[str, Any]], bool]) -> None:
    assert any(claim(case.to_data()) for case in many("attention"))


def test_sequences_without_a_token_occur() -> None:
    drawn = many("varlen_attention")
    assert any(0 in case.to_data()["query_lengths"] for case in drawn)


def test_convolutions_longer_than_their_input_occur() -> None:
    drawn = many("short_conv")
    assert any(case.to_data()["tokens"] < case.to_data()["taps"] for case in drawn)


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_is_the_same_every_time(name: str) -> None:
    assert suite(name, OPS["rms_norm"]) == suite(name, OPS["rms_norm"])


@pytest.mark.parametrize("op", OPS)
def test_the_regimes_suite_has_every_regime_in_every_dtype(op: str) -> None:
    pairs = {(case.regime, case.dtype) for case in suite("regimes", OPS[op])}
    assert pairs == {(regime, dtype) for regime in OPS[op].case.regimes for dtype in DTYPES}
