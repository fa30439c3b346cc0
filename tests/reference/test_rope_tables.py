from typing import Any

import mpmath
import pytest
import torch

from reference import RopeStyle, rope_tables
from tests.reference.agree import assert_agree, assert_refused

mpmath.mp.dps = 50

POSITIONS = [0, 1, 2, 1023, 65537, 2**20 - 1, 2**20, 2**27 - 1, -7]
WIDTH = 16
SCALINGS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "linear": {"type": "linear", "factor": 3.7},
    "ntk": {"type": "ntk", "factor": 4.0},
    "yarn": {"type": "yarn", "factor": 40.0, "original_max_position": 4096},
    "yarn-given": {
        "type": "yarn",
        "factor": 8.0,
        "original_max_position": 200,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
        "attention_factor": 1.25,
    },
}


def _frequencies(scaling: dict[str, Any] | None, base: float) -> tuple[list[Any], Any]:
    """Frequencies and magnitude by the formulas of the papers, with fifty digits."""
    base_, kind = mpmath.mpf(base), (scaling or {"type": "none"})["type"]
    factor = mpmath.mpf((scaling or {"factor": 1.0})["factor"])
    if kind == "ntk":
        base_ = base_ * factor ** (mpmath.mpf(WIDTH) / (WIDTH - 2))
    plain = [1 / base_ ** (mpmath.mpf(2 * i) / WIDTH) for i in range(WIDTH // 2)]
    if kind == "linear":
        return [f / factor for f in plain], mpmath.mpf(1)
    if kind != "yarn" or scaling is None:
        return plain, mpmath.mpf(1)

    def channel(turns: float) -> Any:
        return WIDTH * mpmath.log(scaling["original_max_position"] / (2 * mpmath.pi * turns)) / (2 * mpmath.log(base_))

    low = max(int(mpmath.floor(channel(scaling.get("beta_fast", 32.0)))), 0)
    high = min(int(mpmath.ceil(channel(scaling.get("beta_slow", 1.0)))), WIDTH - 1)
    kept = [1 - min(max(mpmath.mpf(i - low) / (high - low), 0), 1) for i in range(WIDTH // 2)]
    mixed = [f / factor * (1 - keep) + f * keep for f, keep in zip(plain, kept, strict=True)]
    magnitude = scaling.get("attention_factor") or mpmath.mpf(1) / 10 * mpmath.log(factor) + 1
    return mixed, mpmath.mpf(magnitude)


@pytest.mark.parametrize("base", [10000.0, 500000.0])
@pytest.mark.parametrize("name", SCALINGS)
def test_every_entry_is_within_two_units_of_fifty_digits(name: str, base: float) -> None:
    actual = rope_tables(torch.tensor([POSITIONS]), rope_dim=WIDTH, base=base, style="half", scaling=SCALINGS[name])
    frequencies, magnitude = _frequencies(SCALINGS[name], base)
    for table, function in ((actual.cos, mpmath.cos), (actual.sin, mpmath.sin)):
        exact = [[float(function(p * f) * magnitude) for f in frequencies] for p in POSITIONS]
        expected = torch.tensor([exact], dtype=torch.float64)
        assert_agree(table[..., : WIDTH // 2], expected, operations=2, condition=float(magnitude))


def test_small_angles_keep_relative_accuracy() -> None:
    sin = rope_tables(torch.tensor([1, 3]), rope_dim=64, base=1e6, style="half").sin[:, :32]
    exact = [[float(mpmath.sin(p * mpmath.mpf(10) ** (-mpmath.mpf(12 * i) / 64))) for i in range(32)] for p in (1, 3)]
    expected = torch.tensor(exact, dtype=torch.float64)
    assert_agree(sin, expected, operations=3, condition=expected.abs())


def test_half_repeats_the_angles_by_blocks() -> None:
    cos = rope_tables(torch.arange(5), rope_dim=6, base=100.0, style="half").cos
    assert torch.equal(cos[:, :3], cos[:, 3:])


def test_interleaved_repeats_the_angles_by_elements() -> None:
    half = rope_tables(torch.arange(5), rope_dim=6, base=100.0, style="half").sin
    interleaved = rope_tables(torch.arange(5), rope_dim=6, base=100.0, style="interleaved").sin
    assert torch.equal(interleaved, half[:, [0, 0, 1, 1, 2, 2]])


def test_the_first_angle_is_the_position_itself() -> None:
    sin = rope_tables(torch.tensor([1, 2, 3]), rope_dim=2, base=10000.0, style=RopeStyle.HALF).sin[:, 0]
    expected = torch.tensor([float(mpmath.sin(p)) for p in (1, 2, 3)], dtype=torch.float64)
    assert_agree(sin, expected, operations=2, condition=1.0)


def test_shape_follows_the_positions() -> None:
    tables = rope_tables(torch.zeros(2, 3, 4, dtype=torch.int32), rope_dim=6, base=100.0, style="half")
    assert tables.cos.shape == tables.sin.shape == (2, 3, 4, 6)


def test_no_positions_are_legal() -> None:
    empty = torch.zeros(2, 0, dtype=torch.int64)
    assert rope_tables(empty, rope_dim=4, base=100.0, style="half").cos.shape == (2, 0, 4)


def test_float32_tables_are_the_rounded_float64_tables() -> None:
    positions = torch.arange(0, 2**20, 9973)
    exact = rope_tables(positions, rope_dim=8, base=1e4, style="half")
    rounded = rope_tables(positions, rope_dim=8, base=1e4, style="half", dtype=torch.float32)
    assert torch.equal(rounded.sin, exact.sin.float())


def test_two_bases_in_one_process_differ() -> None:
    one, other = (rope_tables(torch.arange(4), rope_dim=4, base=b, style="half").cos for b in (100.0, 1000.0))
    assert not torch.equal(one, other)


def test_yarn_of_factor_one_is_no_scaling() -> None:
    plain = rope_tables(torch.arange(9), rope_dim=8, base=1e4, style="half")
    scaling = {"type": "yarn", "factor": 1.0, "original_max_position": 4096}
    assert torch.equal(rope_tables(torch.arange(9), rope_dim=8, base=1e4, style="half", scaling=scaling).cos, plain.cos)


@pytest.mark.parametrize(
    ("change", "error", "parts"),
    [
        ({"rope_dim": 5}, ValueError, ("rope_dim", "5", "even")),
        ({"base": -1.0}, ValueError, ("base", "-1.0", "positive")),
        ({"style": "gptj"}, ValueError, ("style", "'gptj'", "interleaved")),
        ({"dtype": torch.int64}, TypeError, ("dtype", "int64", "floating-point")),
        ({"scaling": {"type": "su"}}, ValueError, ("scaling['type']", "'su'", "yarn")),
        ({"scaling": {"type": "linear"}}, ValueError, ("scaling", "factor")),
        ({"scaling": {"type": "linear", "factor": 2.0, "beta": 1}}, ValueError, ("scaling", "beta")),
        ({"scaling": {"type": "linear", "factor": 0.0}}, ValueError, ("scaling['factor']", "0.0", "positive")),
        ({"scaling": {"type": "ntk", "factor": 2.0}, "rope_dim": 2}, ValueError, ("rope_dim", "2", "NTK")),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_refused(change: dict[str, Any], error: type[Exception], parts: tuple[str, ...]) -> None:
    arguments: dict[str, Any] = {"rope_dim": 4, "base": 100.0, "style": "half"} | change
    assert_refused(lambda: rope_tables(torch.arange(3), **arguments), error, *parts)


def test_positions_that_are_no_integers_are_refused() -> None:
    positions = torch.arange(3.0)
    assert_refused(
        lambda: rope_tables(positions, rope_dim=4, base=100.0, style="half"), TypeError, "positions", "float32"
    )


def test_a_position_beyond_exact_products_is_refused() -> None:
    positions = torch.tensor([2**27])
    assert_refused(
        lambda: rope_tables(positions, rope_dim=4, base=100.0, style="half"), ValueError, "positions", "2^27"
    )
