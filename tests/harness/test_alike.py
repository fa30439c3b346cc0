"""Groups of values that round alike, against their definition element by element."""

import math
from collections import defaultdict

import pytest
import torch
from torch import Tensor

from harness.alike import alike


def _definition(values: Tensor, amounts: Tensor, parts: Tensor) -> dict[int, float]:
    """Returns, per part, the sum of squares after adding up what rounds alike: one element after the other."""
    sums: dict[tuple[int, float], float] = defaultdict(float)
    for value, amount, part in zip(values.tolist(), amounts.tolist(), parts.tolist(), strict=True):
        mantissa = abs(math.frexp(value)[0])
        sums[part, round(mantissa * 2**41)] += math.copysign(amount, value) * math.copysign(1.0, amount)
    result: dict[int, float] = defaultdict(float)
    for (part, _), total in sums.items():
        result[part] += total**2
    return result


def _values(kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(11)
    drawn = torch.randn(120, generator=generator, dtype=torch.float64)
    return {
        "different": drawn,
        "few": torch.randint(1, 5, (120,), generator=generator).double() * torch.sign(drawn),
        "half of them equal": torch.where(drawn > 0, 0.3, drawn),
        "powers of two": 0.7 * 2.0 ** torch.randint(-8, 8, (120,), generator=generator).double(),
        "all equal": torch.full((120,), 0.1, dtype=torch.float64),
        "one": torch.tensor([0.3], dtype=torch.float64),
        "none": torch.empty(0, dtype=torch.float64),
    }[kind]


@pytest.mark.parametrize(
    "kind", ["different", "few", "half of them equal", "powers of two", "all equal", "one", "none"]
)
def test_sums_of_squares_are_those_of_the_definition(kind: str) -> None:
    values = _values(kind)
    generator = torch.Generator().manual_seed(12)
    amounts = torch.randn(values.numel(), generator=generator, dtype=torch.float64)
    parts = torch.randint(0, 3, (values.numel(),), generator=generator)
    groups = alike(values)
    whole = sum(_definition(values, amounts, torch.zeros_like(parts)).values())
    assert groups.square(amounts) == pytest.approx(whole)
    by_part = _definition(values, amounts, parts)
    assert groups.square_by_part(amounts, parts, 3).tolist() == pytest.approx([by_part[part] for part in range(3)])


def test_what_rounds_alike_adds_up_before_it_is_squared() -> None:
    equal = alike(torch.tensor([0.3, -0.3, 0.6, 0.4], dtype=torch.float64))
    assert equal.square(torch.tensor([1.0, -1.0, 1.0, 1.0], dtype=torch.float64)) == 3.0**2 + 1.0
    assert equal.square(torch.ones(4, dtype=torch.float64)) == (1.0 - 1.0 + 1.0) ** 2 + 1.0
