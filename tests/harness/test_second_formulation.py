"""An emulator whose roundings are the identity is the operation, written a second time.

The budget is measured around the emulator. Around a reference that is wrong it would hold the very difference that is
looked for: samples are as far from that reference as the emulator is.
"""

import dataclasses

import pytest
import torch

from harness.budget import measure_budgets, second_formulation
from harness.operations.base import Operation
from harness.operations.case import Case
from harness.ops import OPS
from harness.strategies import draw_cases
from harness.truth import Truth, truth
from tests.harness.emulation import EXACT

APART = 2.0
"""Budgets of a float64 kernel that the two may be apart: each errs by one at most."""


def apart(row: Operation, case: Case) -> dict[str, float]:
    """Returns by output and gradient the largest distance of reference and emulator, in budgets of a float64 kernel."""
    inputs = row.inputs(case)
    expected = truth(row, inputs, [output.name for output in row.outputs], with_gradients=True)
    worst = dict.fromkeys(expected.expected, 0.0)
    for tile in dict.fromkeys((row.tiles[0], row.tiles[-1])):
        found = second_formulation(row, inputs, EXACT, expected, tile=tile)
        around = Truth(expected={name: value[0] for name, value in found.items()}, tangents={})
        for name, budget in measure_budgets(row, case, inputs, EXACT, around).items():
            other = expected.expected[name]
            ratios = torch.where(other == budget.expected, 0.0, (other - budget.expected).abs() / budget.tolerance)
            worst[name] = max(
                worst[name], ratios.nan_to_num(torch.inf, torch.inf).max().item() if ratios.numel() else 0
            )
    return worst


@pytest.mark.parametrize("op", OPS)
def test_an_emulator_without_rounding_equals_the_reference(op: str) -> None:
    # The values of a 16-bit case, so that its extreme regimes are those that kernels see, computed in float64.
    for case in draw_cases(OPS[op], 6, seed_value=31, dtypes=["bfloat16"], largest=34):
        far = {name: distance for name, distance in apart(OPS[op], case).items() if distance > APART}
        assert far == {}, case.to_line()


@pytest.mark.parametrize("op", OPS)
def test_a_reference_that_is_off_by_one_in_a_billion_is_seen(op: str) -> None:
    row = OPS[op]
    case = draw_cases(row, 2, seed_value=41, dtypes=["bfloat16"], regimes=["normal"], largest=20)[1]

    def off(*args: object, **options: object) -> dict[str, torch.Tensor]:
        named = row.named(row.reference(*args, **options))
        return {name: value * (1 + 1e-9) for name, value in named.items()}

    wrong = dataclasses.replace(row, reference=lambda *args, **options: tuple(off(*args, **options).values()))
    assert min(apart(wrong, case)[output.name] for output in row.outputs) > APART


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
