import mpmath
import pytest
import torch

from reference import silu_mul
from tests.reference.agree import assert_agree, assert_refused
from tests.reference.draws import normal

mpmath.mp.dps = 50

GATES = [-700.0, -88.5, -40.0, -1.2784645427610738, -1.0, -1e-12, 0.0, 1e-12, 0.5, 1.0, 20.1, 40.0, 88.5, 1e4]


def test_values_have_relative_accuracy_from_tiny_to_large() -> None:
    gate, x = torch.tensor(GATES, dtype=torch.float64), torch.full((len(GATES),), 3.0, dtype=torch.float64)
    expected = torch.tensor([float(3 * mpmath.mpf(g) / (1 + mpmath.exp(-g))) for g in GATES], dtype=torch.float64)
    assert_agree(silu_mul(gate, x), expected, operations=6, condition=expected.abs())


def test_gate_gradient_is_that_of_fifty_digits() -> None:
    gate = torch.tensor(GATES, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(silu_mul(gate, torch.ones_like(gate)).sum(), gate)
    exact = [mpmath.diff(lambda z: z / (1 + mpmath.exp(-z)), g) for g in GATES]
    sigmoid = torch.tensor([float(1 / (1 + mpmath.exp(-mpmath.mpf(g)))) for g in GATES], dtype=torch.float64)
    condition = sigmoid * (1 + torch.tensor(GATES, dtype=torch.float64).abs())
    expected = torch.tensor([float(e) for e in exact], dtype=torch.float64)
    assert_agree(gradient, expected, operations=8, condition=condition)


@pytest.mark.parametrize("gate", [-1e300, -800.0, 800.0, 1e300])
def test_large_gates_give_no_nan(gate: float) -> None:
    g = torch.tensor([gate], dtype=torch.float64, requires_grad=True)
    x = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    y = silu_mul(g, x)
    d_gate, d_x = torch.autograd.grad(y, (g, x))
    is_open = gate > 0
    assert (y.item(), d_gate.item(), d_x.item()) == ((2 * gate, 2.0, gate) if is_open else (0.0, 0.0, 0.0))


def test_another_shape_is_refused() -> None:
    assert_refused(lambda: silu_mul(normal(2, 3, seed=0), normal(3, seed=0)), ValueError, "x", "(3,)")


def test_a_number_is_refused() -> None:
    assert_refused(lambda: silu_mul(normal(2, seed=0), 1.0), TypeError, "x", "float")  # type: ignore[arg-type] # the refusal is the test
