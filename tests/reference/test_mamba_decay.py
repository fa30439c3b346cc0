import mpmath
import torch

from reference import mamba_decay
from tests.reference.agree import assert_agree, assert_refused
from tests.reference.draws import normal

mpmath.mp.dps = 50

POINTS = [-700.0, -100.0, -40.0, -20.5, -1.0, -1e-9, 0.0, 1e-9, 1.0, 19.9, 20.1, 40.0, 800.0, 1e5]


def _at(points: list[float]) -> torch.Tensor:
    return torch.tensor(points, dtype=torch.float64).reshape(1, -1, 1).requires_grad_()


def test_values_have_full_relative_accuracy_from_tiny_to_large() -> None:
    a_log, dt_bias = torch.tensor([0.75], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    exact = [float(-mpmath.exp(0.75) * mpmath.log1p(mpmath.exp(p))) for p in POINTS]
    expected = torch.tensor(exact, dtype=torch.float64).reshape(1, -1, 1)
    assert_agree(mamba_decay(_at(POINTS), a_log, dt_bias), expected, operations=6, condition=expected.abs())


def test_gradients_have_full_relative_accuracy_from_tiny_to_large() -> None:
    x, zero = _at(POINTS), torch.zeros(1, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(mamba_decay(x, zero, zero).sum(), x)
    exact = [float(-1 / (1 + mpmath.exp(-mpmath.mpf(p)))) for p in POINTS]
    expected = torch.tensor(exact, dtype=torch.float64).reshape(1, -1, 1)
    assert_agree(gradient, expected, operations=6, condition=expected.abs())


def test_gradient_of_a_log_is_the_decay_itself() -> None:
    x, a_log, dt_bias = normal(1, 1, 3, seed=0), normal(3, seed=1), normal(3, seed=2)
    decay = mamba_decay(x, a_log, dt_bias)
    (gradient,) = torch.autograd.grad(decay.sum(), a_log)
    assert torch.equal(gradient, decay[0, 0].detach())


def test_heads_have_their_own_parameters() -> None:
    x, a_log, dt_bias = normal(2, 3, 4, seed=0), normal(4, seed=1), normal(4, seed=2)
    alone = mamba_decay(x[..., 2:3], a_log[2:3], dt_bias[2:3])
    assert torch.equal(mamba_decay(x, a_log, dt_bias)[..., 2:3], alone)


def test_the_initialisation_of_the_bias_inverts_softplus() -> None:
    step = torch.tensor([0.001, 0.1], dtype=torch.float64)
    bias = step + (-(-step).expm1()).log()
    decay = mamba_decay(torch.zeros(1, 1, 2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64), bias)
    assert_agree(decay[0, 0], -step, operations=6, condition=step * (1 + bias.abs()))


def test_a_wrong_bias_is_refused() -> None:
    x, a_log, dt_bias = normal(1, 2, 3, seed=0), normal(3, seed=1), normal(2, seed=2)
    assert_refused(lambda: mamba_decay(x, a_log, dt_bias), ValueError, "dt_bias", "(2,)", "H=3")


def test_a_float32_parameter_is_refused() -> None:
    x, a_log, dt_bias = normal(1, 2, 3, seed=0), normal(3, seed=1).float(), normal(3, seed=2)
    assert_refused(lambda: mamba_decay(x, a_log, dt_bias), TypeError, "a_log", "float32", "float64")
