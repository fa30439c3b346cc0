import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harness.emulators.rounding import (
    FORMAT_BITS,
    Fault,
    Identity,
    Nearest,
    Random,
    Rounding,
    half_ulp,
    to_nearest,
    unit,
)

CASTS = ("float64", "float32", "float16", "bfloat16")
FORMATS = tuple(FORMAT_BITS)
NARROW = tuple(fmt for fmt in FORMATS if fmt != "float64")
COUNT = 4096


def spread(seed: int = 0, *, powers: int = 8) -> Tensor:
    """Returns numbers of both signs over many binades, first axis the sample axis."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.randint(-powers, powers + 1, (1, COUNT), generator=generator)
    return torch.randn(1, COUNT, generator=generator, dtype=torch.float64) * 2.0**size


def noise(rounding: Rounding, value: Tensor, fmt: str) -> Tensor:
    """Returns the error of a rounding in units of half a unit in the last place."""
    return (rounding.round("x", value, fmt, keeps_exact=False) - value) / half_ulp(value, fmt)


@pytest.mark.parametrize("fmt", CASTS)
@given(value=st.floats(width=64, allow_nan=False))
def test_nearest_is_the_cast_of_torch(fmt: str, value: float) -> None:
    number = torch.tensor([value], dtype=torch.float64)
    assert torch.equal(to_nearest(number, fmt), number.to(getattr(torch, fmt)).double())


@given(value=st.floats(-(2.0**127), 2.0**127, width=32, allow_subnormal=False))
def test_tf32_is_the_nearest_number_of_eleven_bits(value: float) -> None:
    mantissa, exponent = math.frexp(value)
    expected = math.ldexp(round(mantissa * 2**11), exponent - 11)
    assert to_nearest(torch.tensor([value], dtype=torch.float64), "tf32").item() == expected


@pytest.mark.parametrize("fmt", FORMATS)
def test_rounding_twice_is_rounding_once(fmt: str) -> None:
    once = to_nearest(spread(), fmt)
    assert torch.equal(to_nearest(once, fmt), once)


@pytest.mark.parametrize("fmt", FORMATS)
def test_nearest_is_within_half_a_unit_in_the_last_place(fmt: str) -> None:
    value = spread()
    assert bool(((to_nearest(value, fmt) - value).abs() <= half_ulp(value, fmt)).all())


@pytest.mark.parametrize("fmt", CASTS)
def test_half_a_unit_is_half_the_gap_to_the_next_number(fmt: str) -> None:
    value = to_nearest(spread(), fmt).abs()
    dtype = getattr(torch, fmt)
    gap = torch.nextafter(value.to(dtype), torch.tensor(torch.inf, dtype=dtype)).double() - value
    assert torch.equal(half_ulp(value, fmt), gap / 2)


@pytest.mark.parametrize("fmt", CASTS)
def test_half_a_unit_of_zero_is_that_of_the_smallest_normal_number(fmt: str) -> None:
    smallest = torch.tensor([torch.finfo(getattr(torch, fmt)).tiny], dtype=torch.float64)
    assert half_ulp(torch.zeros(1, dtype=torch.float64), fmt).item() == half_ulp(smallest, fmt).item()


@pytest.mark.parametrize("fmt", CASTS)
def test_a_unit_is_half_of_eps(fmt: str) -> None:
    assert unit(fmt) == torch.finfo(getattr(torch, fmt)).eps / 2


@pytest.mark.parametrize("rounding", [Identity(), Nearest(), Random(3, 1)], ids=["identity", "nearest", "random"])
@pytest.mark.parametrize("fmt", FORMATS)
def test_rounding_is_odd(rounding: Rounding, fmt: str) -> None:
    value = spread()
    there = rounding.round("x", value, fmt, keeps_exact=False)
    assert torch.equal(rounding.round("x", -value, fmt, keeps_exact=False), -there)


@pytest.mark.parametrize("fmt", FORMATS)
def test_random_rounding_is_at_most_half_a_unit_off(fmt: str) -> None:
    # In float64 the noise is four times that, since the reference has roundings of its own.
    largest = 4.0 if fmt == "float64" else 1.0
    # Adding the noise to the value rounds once more in float64.
    slack = unit("float64") / unit(fmt)
    assert noise(Random(4, 0), spread(), fmt).abs().max().item() <= largest + slack


@pytest.mark.parametrize("fmt", NARROW)
def test_random_rounding_is_uniform(fmt: str) -> None:
    found = noise(Random(1, 7), spread(), fmt).flatten().sort().values
    steps = torch.arange(1, COUNT + 1, dtype=torch.float64) / COUNT
    # Kolmogorov and Smirnov: the largest distance of two distribution functions exceeds 2.2 / sqrt(n) once in 8,000.
    assert ((found + 1) / 2 - steps).abs().max().item() <= 2.2 / math.sqrt(COUNT)


def test_samples_are_independent() -> None:
    found = noise(Random(8, 3), spread().expand(8, COUNT), "float32")
    correlations = torch.corrcoef(found) - torch.eye(8, dtype=torch.float64)
    # Five standard errors of a correlation of independent numbers.
    assert correlations.abs().max().item() <= 5 / math.sqrt(COUNT)


ALIKE = {fmt: 2.0 ** -(FORMAT_BITS[fmt][0] + 6) for fmt in ("float16", "tf32", "bfloat16")}
"""The distance of two values between 1 and 2 that no sample takes for one: a 128th of a unit in the last place."""


@pytest.mark.parametrize("fmt", ALIKE)
def test_neighbouring_values_are_rounded_independently(fmt: str) -> None:
    start = 1 + torch.arange(COUNT, dtype=torch.float64)[None] * ALIKE[fmt]
    found = noise(Random(1, 5), start, fmt).flatten()
    correlation = torch.corrcoef(torch.stack([found[1:], found[:-1]]))[0, 1].item()
    assert abs(correlation) <= 5 / math.sqrt(COUNT)


@pytest.mark.parametrize("fmt", ALIKE)
def test_values_are_parted_in_as_many_samples_as_their_distance_tells(fmt: str) -> None:
    """Wherever they lie: a grid that stood still would part some in all samples and others in none."""
    samples, parted = 1024, 1 / 8
    value = 1 + torch.rand(1, 64, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(torch.float32)
    rounding = Random(samples, 5)
    there, here = (
        noise(rounding, place.to(torch.float64).expand(samples, 64), fmt)
        for place in (value, value + parted * ALIKE[fmt])
    )
    share = (there != here).to(torch.float64).mean(0)
    assert (share - parted).abs().max().item() <= 5 * math.sqrt(parted * (1 - parted) / samples)


def test_equal_values_round_alike_wherever_they_stand() -> None:
    value = spread()
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(1))
    rounding = Random(2, 9)
    there = rounding.round("x", value.expand(2, COUNT), "bfloat16", keeps_exact=False)
    assert torch.equal(
        rounding.round("x", value.expand(2, COUNT)[:, order], "bfloat16", keeps_exact=False), there[:, order]
    )


def test_equal_values_at_two_points_round_by_themselves() -> None:
    value = spread().expand(2, COUNT)
    rounding = Random(2, 9)
    there, here = (rounding.round(point, value, "bfloat16", keeps_exact=False) for point in ("x", "y"))
    assert not torch.equal(there, here)


def test_sums_of_equal_key_err_alike() -> None:
    value, key = spread(), torch.full((1, COUNT), 3.0, dtype=torch.float64)
    moved = Random(2, 9).accumulate("x", value, lambda: torch.ones_like(value), "float32", key=key) - value
    distance = (moved - moved[:, :1]).abs().max().item()
    assert distance <= torch.finfo(torch.float64).eps * value.abs().max().item()


def test_values_that_differ_in_the_last_bits_of_float64_round_alike() -> None:
    value = to_nearest(spread(), "float32")
    close = value * (1 + 2.0**-50)
    there, here = (noise(Random(1, 2), each, "bfloat16") for each in (value, close))
    # The error itself differs by what the value was moved, 2^-50 against half a unit of 2^-8 and more.
    assert (there - here).abs().max().item() <= 2.0**-40


def test_the_same_seed_gives_the_same_rounding() -> None:
    value = spread().expand(2, COUNT)
    there, here = (Random(2, 4).round("x", value, "float16", keeps_exact=False) for _ in range(2))
    assert torch.equal(there, here)


def test_another_seed_gives_another_rounding() -> None:
    there, here = (noise(Random(1, seed), spread(), "float16") for seed in (4, 5))
    assert float((there == here).double().mean()) < 0.01


@pytest.mark.parametrize("fmt", NARROW)
def test_a_number_of_the_format_stays_what_it_is_where_that_is_asked(fmt: str) -> None:
    value = to_nearest(spread(), fmt)
    assert torch.equal(Random(1, 0).round("x", value, fmt, keeps_exact=True), value)


@pytest.mark.parametrize("fmt", NARROW)
def test_a_number_of_the_format_moves_elsewhere(fmt: str) -> None:
    value = to_nearest(spread(), fmt)
    assert not torch.equal(Random(1, 0).round("x", value, fmt, keeps_exact=False), value)


@pytest.mark.parametrize("rounding", [Identity(), Nearest(), Random(1, 1)], ids=["identity", "nearest", "random"])
def test_zero_stays_zero_in_a_function_and_an_empty_sum(rounding: Rounding) -> None:
    zero = torch.zeros(1, 4, dtype=torch.float64)
    assert not rounding.approximate("x", zero, 0.1).any()
    assert not rounding.accumulate("x", zero, lambda: torch.zeros_like(zero), "float32").any()


def test_identity_changes_nothing() -> None:
    value, identity = spread(), Identity()
    assert identity.round("x", value, "bfloat16", keeps_exact=False) is value
    assert identity.accumulate("x", value, lambda: value, "bfloat16") is value
    assert identity.approximate("x", value, 0.5) is value


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda rounding, point, x: rounding.round(point, x, "float32", keeps_exact=False), id="round"),
        pytest.param(lambda rounding, point, x: rounding.accumulate(point, x, x.abs, "float32"), id="accumulate"),
        pytest.param(lambda rounding, point, x: rounding.approximate(point, x, 1e-3), id="approximate"),
    ],
)
def test_a_fault_changes_one_point_and_no_other(act: Callable[[Rounding, str, Tensor], Tensor]) -> None:
    healthy = Random(1, 3)
    fault, value = Fault(healthy, {"here": lambda x: -x}), spread()
    assert torch.equal(act(fault, "there", value), act(healthy, "there", value))
    assert torch.equal(act(fault, "here", value), -act(healthy, "here", value))
