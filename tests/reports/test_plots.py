"""The plots: what they count, and that names and numbers that are hard to draw are drawn."""

import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import chain

from reports.plots import ROWS_DRAWN, ratio_plots
from tests.reports.samples import failure, judgement, record


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter() if element.tag.endswith("}text")]


def test_every_operation_has_a_plot_that_counts_its_failures() -> None:
    spreads, _ = ratio_plots([record(op="rope"), record(), failure()])
    assert [plot.summary for plot in spreads] == [
        "rms_norm: largest error over tolerance of 2 cases; 1 beyond the tolerance.",
        "rope: largest error over tolerance of 1 case; 0 beyond the tolerance.",
    ]


def test_growth_is_drawn_only_over_several_lengths() -> None:
    _, growths = ratio_plots([record(tokens=8), record(tokens=64), record(op="rope", tokens=8)])
    assert [plot.summary for plot in growths] == [
        "rms_norm: largest error over tolerance at lengths from 8 to 64 tokens."
    ]


def test_packed_sequences_are_as_long_as_all_of_them_together() -> None:
    packed = [
        replace(record(), case={"op": "varlen_attention", "query_lengths": lengths}) for lengths in ([3, 0, 4], [16])
    ]
    assert "lengths from 7 to 16 tokens" in ratio_plots(packed)[1][0].summary


def test_a_name_with_mathematics_or_markup_is_drawn_as_it_is() -> None:
    spreads, _ = ratio_plots([record(candidate="$\\frac{<b>&$", dtype="x")])
    assert "$\\frac{<b>&$, x" in texts(spreads[0].svg)


def test_ratios_of_zero_and_beyond_every_number_stand_on_the_edges() -> None:
    ratios = [0.0, math.inf, math.nan]
    spreads, growths = ratio_plots(
        [record(tokens=2**i, judgements=[judgement(max_ratio=ratio)]) for i, ratio in enumerate(ratios)]
    )
    shown = texts(spreads[0].svg) + texts(growths[0].svg)
    assert [shown.count("≤ 0.01"), shown.count("≥ 100")] == [2, 2]


def test_of_many_candidates_the_worst_are_drawn_and_the_rest_counted() -> None:
    many = [record(candidate=f"kernel-{index}") for index in range(ROWS_DRAWN + 3)]
    spreads, _ = ratio_plots([*many, failure(candidate="worst")])
    assert spreads[0].note == f"The worst {ROWS_DRAWN} of {ROWS_DRAWN + 4}."
    assert "worst, bfloat16" in texts(spreads[0].svg)


def test_no_identifier_is_shared_by_two_plots() -> None:
    spreads, growths = ratio_plots([record(op=op, tokens=length) for op in ("a", "b") for length in (8, 64)])
    identifiers = [
        element.get("id")
        for plot in chain(spreads, growths)
        for element in ET.fromstring(plot.svg).iter()
        if element.get("id")
    ]
    assert len(identifiers) == len(set(identifiers)) > 0
