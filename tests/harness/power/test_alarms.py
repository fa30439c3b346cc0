"""A false alarm says whether it came again: a hole of the model does, what memory happens to hold does not."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor

from harness.cases import case_from_data
from harness.inprocess import Here
from harness.power.runs import run_case
from harness.verify import Settings
from tests.harness.power.seeded import FAULTS, norm
from tests.harness.searching import NORM

HEALTHY = FAULTS[0].pairs["float32"][1]


def off_by_one_percent(*, times: int) -> Callable[..., Tensor]:
    """Returns a norm whose first calls are wrong."""
    calls = [0]

    def call(*args: Any, **options: Any) -> Tensor:
        calls[0] += 1
        out = norm(*args, **options)
        return out * 1.01 if calls[0] <= times else out

    return call


@pytest.mark.parametrize(("times", "said"), [(1, "run again at once: PASS"), (99, "run again at once: FAIL_NUMERIC (")])
def test_it_is_run_again(times: int, said: str) -> None:
    wrong = off_by_one_percent(times=times)
    twin = replace(HEALTHY, load=lambda: wrong)
    case = case_from_data(NORM | {"dtype": "float32"})
    with Here(twin, "cpu") as worker:
        runs = run_case(case, [("T001", twin, twin)], worker, Settings(relations="none"))
    (alarm,) = (run for run in runs if run.is_healthy)
    assert said in alarm.reason
