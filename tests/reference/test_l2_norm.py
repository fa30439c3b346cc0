import mpmath
import torch

from reference import l2_norm
from tests.reference.agree import assert_agree, assert_refused
from tests.reference.draws import normal

mpmath.mp.dps = 50


def test_every_element_is_that_of_fifty_digits() -> None:
    x = normal(3, 7, seed=0)
    exact = [
        [float(e / mpmath.sqrt(mpmath.fsum(mpmath.mpf(a) ** 2 for a in row) + mpmath.mpf(1e-6))) for e in row]
        for row in x.tolist()
    ]
    expected = torch.tensor(exact, dtype=torch.float64)
    assert_agree(l2_norm(x), expected, operations=7 + 4, condition=expected.abs())


def test_epsilon_stands_inside_the_root() -> None:
    x = torch.tensor([3.0, 0.0], dtype=torch.float64)
    assert_agree(l2_norm(x, eps=16.0), torch.tensor([0.6, 0.0], dtype=torch.float64), operations=4, condition=1.0)


def test_a_zero_row_gives_zero() -> None:
    assert not l2_norm(torch.zeros(2, 3, dtype=torch.float64)).any()


def test_a_zero_row_has_the_gradient_one_over_root_eps() -> None:
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(l2_norm(x, eps=2.0**-20).sum(), x)
    assert torch.equal(gradient, torch.full((3,), 2.0**10, dtype=torch.float64))


def test_the_gradient_is_orthogonal_to_a_long_row() -> None:
    x = normal(6, seed=0)
    y = l2_norm(x, eps=1e-300)
    (gradient,) = torch.autograd.grad(y, x, normal(6, seed=1))
    assert_agree(gradient @ x, torch.zeros((), dtype=torch.float64), operations=40, condition=gradient.abs() @ x.abs())


def test_no_axis_is_refused() -> None:
    assert_refused(lambda: l2_norm(torch.tensor(1.0)), ValueError, "x", "()")


def test_a_negative_epsilon_is_refused() -> None:
    assert_refused(lambda: l2_norm(normal(2, seed=0), eps=-1e-6), ValueError, "eps", "-1e-06")
