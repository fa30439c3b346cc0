import mpmath
import pytest
import torch

from reference import log_sigmoid_decay
from tests.reference.agree import assert_agree, assert_refused
from tests.reference.draws import normal

mpmath.mp.dps = 50

POINTS = [-1e5, -800.0, -40.0, -20.1, -1.0, -1e-9, 0.0, 1e-9, 1.0, 20.5, 40.0, 100.0, 700.0]


@pytest.mark.parametrize("normalizer", [1.0, 16.0])
def test_values_have_full_relative_accuracy_from_tiny_to_large(normalizer: float) -> None:
    exact = [float(-mpmath.log1p(mpmath.exp(-mpmath.mpf(p))) / normalizer) for p in POINTS]
    expected = torch.tensor(exact, dtype=torch.float64)
    actual = log_sigmoid_decay(torch.tensor(POINTS, dtype=torch.float64), normalizer=normalizer)
    assert_agree(actual, expected, operations=5, condition=expected.abs())


def test_gradients_have_full_relative_accuracy_from_tiny_to_large() -> None:
    x = torch.tensor(POINTS, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(log_sigmoid_decay(x, normalizer=16.0).sum(), x)
    exact = [float(1 / (1 + mpmath.exp(mpmath.mpf(p))) / 16) for p in POINTS]
    expected = torch.tensor(exact, dtype=torch.float64)
    assert_agree(gradient, expected, operations=5, condition=expected.abs())


def test_a_normalizer_of_zero_is_refused() -> None:
    assert_refused(lambda: log_sigmoid_decay(normal(2, seed=0), normalizer=0.0), ValueError, "normalizer", "0.0")


def test_a_normalizer_that_is_no_number_is_refused() -> None:
    x = normal(2, seed=0)
    assert_refused(lambda: log_sigmoid_decay(x, normalizer="16"), TypeError, "normalizer", "str")  # type: ignore[arg-type] # the refusal is the test
