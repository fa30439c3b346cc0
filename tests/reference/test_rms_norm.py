import mpmath
import torch

from reference import rms_norm
from tests.reference.agree import assert_agree, assert_refused, gradients
from tests.reference.draws import normal

mpmath.mp.dps = 50


def test_every_element_is_that_of_fifty_digits() -> None:
    x, weight = normal(3, 7, seed=0) * 10, normal(7, seed=1)
    exact = [
        [
            float(
                mpmath.mpf(e)
                * mpmath.mpf(w)
                / mpmath.sqrt(mpmath.fsum(mpmath.mpf(a) ** 2 for a in row) / 7 + mpmath.mpf(1e-5))
            )
            for e, w in zip(row, weight.tolist(), strict=True)
        ]
        for row in x.tolist()
    ]
    expected = torch.tensor(exact, dtype=torch.float64)
    assert_agree(rms_norm(x, weight, eps=1e-5), expected, operations=7 + 5, condition=expected.abs())


def test_zero_centred_weight_adds_one() -> None:
    x, weight = normal(3, 8, seed=0), normal(8, seed=1)
    zero_centred = rms_norm(x, weight, eps=1e-5, zero_centered=True)
    assert torch.equal(zero_centred, rms_norm(x, 1 + weight, eps=1e-5))


def test_a_row_of_equal_elements_becomes_their_sign() -> None:
    x, weight = torch.full((4,), -3.0, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    expected = -(1 + torch.tensor(1e-6, dtype=torch.float64) / 9).rsqrt().expand(4)
    assert_agree(rms_norm(x, weight, eps=1e-6), expected, operations=8, condition=1.0)


def test_a_zero_row_gives_zero() -> None:
    assert not rms_norm(torch.zeros(2, 4, dtype=torch.float64), normal(4, seed=0), eps=1e-6).any()


def test_a_zero_row_has_the_gradient_weight_over_root_eps() -> None:
    x = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    weight = normal(4, seed=0)
    (gradient,) = torch.autograd.grad(rms_norm(x, weight, eps=2.0**-20).sum(), x)
    assert torch.equal(gradient, weight * 2.0**10)


def test_gradients_agree_with_torch() -> None:
    x, weight = normal(5, 9, seed=0), normal(9, seed=1)
    ours = gradients([rms_norm(x, weight, eps=1e-6)], [x, weight])
    theirs = gradients([torch.nn.functional.rms_norm(x, (9,), weight, 1e-6)], [x, weight])
    largest = float(torch.cat([g.flatten() for g in theirs]).abs().max())
    for a, b in zip(ours, theirs, strict=True):
        assert_agree(a, b, operations=2 * 9 + 10, condition=largest)


def test_one_channel_is_legal() -> None:
    assert_agree(
        rms_norm(torch.tensor([[3.0]]).double(), torch.ones(1).double(), eps=16.0),
        torch.tensor([[3 / 5]], dtype=torch.float64),
        operations=4,
        condition=1.0,
    )


def test_a_wrong_weight_is_refused() -> None:
    x, weight = normal(2, 4, seed=0), normal(3, seed=0)
    assert_refused(lambda: rms_norm(x, weight, eps=1e-6), ValueError, "weight", "(3,)", "(C=4)")


def test_another_dtype_is_refused() -> None:
    x, weight = normal(2, 4, seed=0), normal(4, seed=0).float()
    assert_refused(lambda: rms_norm(x, weight, eps=1e-6), TypeError, "weight", "float32", "float64")


def test_an_epsilon_of_zero_is_refused() -> None:
    x, weight = normal(2, 4, seed=0), normal(4, seed=0)
    assert_refused(lambda: rms_norm(x, weight, eps=0.0), ValueError, "eps", "0.0", "positive")


def test_integers_are_refused() -> None:
    assert_refused(lambda: rms_norm(torch.ones(2, dtype=torch.int64), normal(2, seed=0), eps=1.0), TypeError, "x")
