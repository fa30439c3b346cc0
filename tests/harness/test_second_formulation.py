"""An emulator whose roundings are the identity is the operation, written a second time."""

import pytest
import torch

from harness.budget import measure_budgets, second_formulation
from harness.ops import OPS
from harness.strategies import draw_cases
from harness.truth import truth
from tests.harness.emulation import EXACT


@pytest.mark.parametrize("op", OPS)
def test_an_emulator_without_rounding_equals_the_reference(op: str) -> None:
    row = OPS[op]
    # The values of a 16-bit case, so that its extreme regimes are those that kernels see, computed in float64.
    for case in draw_cases(row, 6, seed_value=31, dtypes=["bfloat16"], largest=34):
        inputs = row.inputs(case)
        expected = truth(row, inputs, [output.name for output in row.outputs], with_gradients=True)
        budgets = measure_budgets(row, case, inputs, EXACT, expected)
        for tile in dict.fromkeys((row.tiles[0], row.tiles[-1])):
            found = second_formulation(row, inputs, EXACT, expected, tile=tile)
            for name, budget in budgets.items():
                same = (found[name][0] == budget.expected) | (
                    (found[name][0] - budget.expected).abs() <= budget.tolerance
                )
                assert bool(same.all()), f"{name}, tile {tile}: {case.to_line()}"


@pytest.mark.parametrize("op", OPS)
def test_it_gives_what_the_reference_gives_and_nothing_else(op: str) -> None:
    row = OPS[op]
    case = draw_cases(row, 1, seed_value=37, dtypes=["float64"], largest=9)[0]
    inputs = row.inputs(case)
    expected = truth(row, inputs, [output.name for output in row.outputs], with_gradients=True)
    found = second_formulation(row, inputs, EXACT, expected, tile=row.tiles[0])
    assert {name: value.shape for name, value in found.items()} == {
        name: torch.Size((1, *value.shape)) for name, value in expected.expected.items()
    }
