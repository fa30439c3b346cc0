from typing import Any

import pytest
import torch

from reference import visible_pairs
from tests.reference.agree import assert_refused

CPU = torch.device("cpu")


def _rows(T: int, S: int, left: int | None, right: int | None) -> list[str]:
    pairs = visible_pairs(T, S, window=(left, right), device=CPU)
    return ["".join("x" if seen else "." for seen in row) for row in pairs.tolist()]


def test_no_window_shows_everything() -> None:
    assert _rows(2, 3, None, None) == ["xxx", "xxx"]


def test_causal_is_a_lower_triangle() -> None:
    assert _rows(3, 3, None, 0) == ["x..", "xx.", "xxx"]


def test_more_keys_than_queries_align_at_the_end() -> None:
    assert _rows(2, 4, None, 0) == ["xxx.", "xxxx"]


def test_more_queries_than_keys_leave_the_first_without_any() -> None:
    assert _rows(4, 2, None, 0) == ["..", "..", "x.", "xx"]


def test_left_counts_keys_before_the_token() -> None:
    assert _rows(4, 4, 1, 0) == ["x...", "xx..", ".xx.", "..xx"]


def test_a_window_of_zero_shows_the_token_itself() -> None:
    assert _rows(3, 3, 0, 0) == ["x..", ".x.", "..x"]


def test_both_sides_are_counted_from_the_aligned_position() -> None:
    assert _rows(2, 5, 1, 1) == ["..xxx", "...xx"]


def test_an_unbounded_right_shows_the_future() -> None:
    assert _rows(3, 3, 0, None) == ["xxx", ".xx", "..x"]


@pytest.mark.parametrize(("T", "S"), [(0, 3), (3, 0), (0, 0)])
def test_empty_sequences_are_legal(T: int, S: int) -> None:
    assert visible_pairs(T, S, window=(None, 0), device=CPU).shape == (T, S)


@pytest.mark.parametrize(
    ("window", "error"),
    [((-1, 0), ValueError), ((None, -1), ValueError), ((1.0, 0), TypeError), ((1,), TypeError), (3, TypeError)],
)
def test_a_wrong_window_is_refused(window: Any, error: type[Exception]) -> None:
    assert_refused(lambda: visible_pairs(2, 2, window=window, device=CPU), error, "window", repr(window))
