"""Words and numbers as a reader sees them."""

import math

import pytest

from harness.records import Verdict
from reports.text import number, place, plain, tone


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.5, "0.500"),
        (9.996, "10.0"),
        (123.4, "123"),
        (1234.5, "1,234"),
        (0.00123, "0.00123"),
        (1.5e-7, "1.50e-7"),
        (2.5e9, "2.50e9"),
        (-0.25, "\N{MINUS SIGN}0.250"),
        (math.inf, "∞"),
        (math.nan, "nan"),
        (None, "\N{EN DASH}"),
    ],
)
def test_a_number_is_shown_with_three_significant_digits(value: float | None, shown: str) -> None:
    assert number(value) == shown


def test_control_format_and_surrogate_characters_are_shown_as_escapes() -> None:
    assert plain("a\x00\x1b\u202e\ud800\uffffb") == r"a\x00\x1b\u202e\ud800\uffffb"


def test_letters_of_any_script_stay_as_they_are() -> None:
    assert plain("λ 注意 é") == "λ 注意 é"


def test_a_long_text_is_cut_and_says_how_long_it_was() -> None:
    assert plain("x" * 1_000_000, limit=3) == "xxx… (1,000,000 characters)"


def test_lines_are_kept_only_where_asked_for() -> None:
    assert (plain("a\nb"), plain("a\nb", keep_lines=True)) == (r"a\nb", "a\nb")


def test_a_place_names_its_axes() -> None:
    assert place({"batch": 0, "token": 3}) == "batch 0, token 3"


def test_every_failing_verdict_is_shown_as_a_failure() -> None:
    assert {verdict for verdict in Verdict if tone(verdict) == "fail"} == {v for v in Verdict if v.is_failure}
