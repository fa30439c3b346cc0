"""The noise of accumulated sums against sums that float32 really accumulates, one term after the other."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from harness.budget import LAMBDA
from harness.emulators.arithmetic import Arithmetic
from harness.emulators.rounding import Random
from optimized.candidate import Recipe

SAMPLES = 8
COLUMNS = 256
TERMS = (40, 400, 1600)


def recipe() -> Recipe:
    return Recipe(storage="float32", operand="float32", accumulator="float32")


def sums(kind: str, terms: int) -> Tensor:
    """Returns float32 terms ``(terms, columns)``; each column is a sum of its own."""
    generator = torch.Generator().manual_seed(3)
    one = torch.rand(1, COLUMNS, generator=generator) + 0.5
    each = torch.rand(terms, COLUMNS, generator=generator) + 0.5
    half = torch.arange(terms)[:, None] < terms // 2
    other = torch.rand(1, COLUMNS, generator=generator) + 0.5
    return {
        "equal": one.expand(terms, COLUMNS),
        "of two values": torch.where(torch.rand(terms, COLUMNS, generator=generator) < 0.5, one, other),
        "equal and zeros": torch.where(half, one, 0.0),
        "equal, then opposite": torch.where(half, one, -other),
        "of one sign": each,
        "of one sign, then of the other": torch.where(half, each, -each.roll(1, 1)),
        "of any sign": torch.randn(terms, COLUMNS, generator=generator),
    }[kind]


KINDS = (
    "equal", "of two values", "equal and zeros", "equal, then opposite", "of one sign",
    "of one sign, then of the other", "of any sign",
)  # fmt: skip
ALIKE = tuple(kind for kind in KINDS if "equal" in kind or "two" in kind)


def one_by_one(terms: Tensor) -> Tensor:
    """Returns the float64 errors of float32 sums, each term added to what there is."""
    total = torch.zeros(terms.shape[1])
    for term in terms:
        total = total + term
    return total.double() - terms.double().sum(0)


def sigma_of_total(terms: Tensor) -> Tensor:
    """Returns the root mean square of the modelled errors of each column's sum."""
    value = terms.double()[None]
    found = Arithmetic(recipe(), Random(SAMPLES, 1)).total("x", value, 1)
    return (found - value.sum(1)).square().mean(0).sqrt()


def sigma_of_product(terms: Tensor) -> Tensor:
    """Returns the same of products of each column with ones, a matrix product per column."""
    left = terms.double().t()[None, :, None, :]
    found = Arithmetic(recipe(), Random(SAMPLES, 1)).product("x", left, torch.ones_like(left).transpose(-1, -2))
    return (found - left.sum(-1, keepdim=True))[..., 0, 0].square().mean(0).sqrt()


@pytest.mark.parametrize("sigma", [sigma_of_total, sigma_of_product], ids=["total", "product"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("terms", TERMS)
def test_real_sums_are_within_the_model(kind: str, terms: int, sigma: Callable[[Tensor], Tensor]) -> None:
    drawn = sums(kind, terms)
    errors, modelled = one_by_one(drawn), sigma(drawn)
    # As a budget takes sigma: half an element's own mean square, half that of its row.
    mixed = (0.5 * modelled.square() + 0.5 * modelled.square().mean()).sqrt()
    assert bool((errors.abs() <= LAMBDA * mixed).all())
    # And not only because the model would let anything pass.
    assert errors.square().mean().sqrt() >= mixed.mean() / LAMBDA


@pytest.mark.parametrize("kind", ALIKE)
def test_a_model_without_directions_calls_sums_of_equal_terms_faulty(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_directions = Random.accumulate
    monkeypatch.setattr(
        Random,
        "accumulate",
        lambda self, point, value, gauge, fmt, *, key=None, walk=None: with_directions(  # noqa: ARG005 - that is the fault
            self, point, value, gauge, fmt, key=key
        ),
    )
    drawn = sums(kind, TERMS[-1])
    modelled = sigma_of_total(drawn).square()
    assert bool((one_by_one(drawn).abs() > LAMBDA * (0.5 * modelled + 0.5 * modelled.mean()).sqrt()).any())


def test_opposite_terms_err_oppositely() -> None:
    drawn = sums("equal", 40)
    arithmetic = Arithmetic(recipe(), Random(SAMPLES, 1))
    both = (arithmetic.total("x", sign * drawn.double()[None], 1) for sign in (1, -1))
    there, back = both
    assert torch.equal(there, -back)
