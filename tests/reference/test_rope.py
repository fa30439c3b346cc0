import pytest
import torch

from reference import RopeStyle, rope
from tests.reference.agree import assert_agree, assert_refused, gradients
from tests.reference.draws import normal, tables
from tests.reference.second.complex_rotation import rotate

STYLES = ["half", "interleaved"]


@pytest.mark.parametrize("style", STYLES)
def test_a_rotation_is_a_multiplication_of_complex_numbers(style: RopeStyle) -> None:
    x, angles = normal(2, 3, 2, 6, seed=0), normal(2, 3, 3, seed=1, requires_grad=False)
    pairs = torch.cat((angles, angles), -1) if style == "half" else angles.repeat_interleave(2, -1)
    ours, theirs = rope(x, pairs.cos(), pairs.sin(), style=style), rotate(x, angles, style=style)
    largest = float(x.detach().abs().max())
    assert_agree(ours, theirs, operations=6, condition=2 * largest)
    assert_agree(*gradients([ours], [x]), *gradients([theirs], [x]), operations=6, condition=8.0)


@pytest.mark.parametrize("style", STYLES)
def test_a_quarter_turn_sends_the_first_of_a_pair_to_the_second(style: RopeStyle) -> None:
    x = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64).reshape(1, 1, 1, 4)
    zero, one = torch.zeros(1, 1, 4, dtype=torch.float64), torch.ones(1, 1, 4, dtype=torch.float64)
    expected = [-3.0, -4.0, 1.0, 2.0] if style == "half" else [-2.0, 1.0, -4.0, 3.0]
    assert rope(x, zero, one, style=style).flatten().tolist() == expected


@pytest.mark.parametrize("style", STYLES)
def test_norms_are_preserved(style: RopeStyle) -> None:
    x = normal(2, 3, 2, 8, seed=0)
    cos, sin = tables(2, 3, 8, style=style, seed=1)
    norms = x.norm(dim=-1)
    assert_agree(rope(x, cos, sin, style=style).norm(dim=-1), norms, operations=8 + 6, condition=norms)


@pytest.mark.parametrize("style", STYLES)
def test_turning_back_returns_the_input(style: RopeStyle) -> None:
    x = normal(2, 3, 2, 8, seed=0)
    cos, sin = tables(2, 3, 8, style=style, seed=1)
    turned = rope(rope(x, cos, sin, style=style), cos, -sin, style=style)
    assert_agree(turned, x, operations=12, condition=2 * float(x.detach().abs().max()))


def test_both_channels_of_a_pair_keep_their_own_table() -> None:
    x = torch.ones(1, 1, 1, 2, dtype=torch.float64)
    cos = torch.tensor([[[2.0, 3.0]]], dtype=torch.float64)
    sin = torch.tensor([[[5.0, 7.0]]], dtype=torch.float64)
    assert rope(x, cos, sin, style=RopeStyle.HALF).flatten().tolist() == [2.0 - 5.0, 3.0 + 7.0]


def test_odd_width_is_refused() -> None:
    x, table = normal(1, 2, 1, 3, seed=0), normal(1, 2, 3, seed=1)
    assert_refused(lambda: rope(x, table, table, style="half"), ValueError, "x", "3 channels", "even")


def test_an_unknown_style_is_refused() -> None:
    x, table = normal(1, 2, 1, 4, seed=0), normal(1, 2, 4, seed=1)
    assert_refused(
        lambda: rope(x, table, table, style="neox"),  # type: ignore[arg-type] # the refusal is the test
        ValueError,
        "style",
        "'neox'",
        "half, interleaved",
    )


def test_tables_of_half_the_width_are_refused() -> None:
    x, table = normal(1, 2, 1, 4, seed=0), normal(1, 2, 2, seed=1)
    assert_refused(lambda: rope(x, table, table, style="half"), ValueError, "cos", "(1, 2, 2)", "R=4")


def test_a_missing_head_axis_is_refused() -> None:
    x, table = normal(1, 2, 4, seed=0), normal(1, 2, 4, seed=1)
    assert_refused(lambda: rope(x, table, table, style="half"), ValueError, "x", "(1, 2, 4)", "(B, T, H, R)")
