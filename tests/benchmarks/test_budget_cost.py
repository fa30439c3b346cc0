import pytest

from harness.operations.case import Case
from tests.benchmarks.budget_cost import CASES, LIMIT, cost_of


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_budget_costs_at_most_thirty_references(case: Case) -> None:
    assert cost_of(case, repeats=9).ratio <= LIMIT
