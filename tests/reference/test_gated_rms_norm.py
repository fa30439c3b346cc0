import mpmath
import pytest
import torch

from reference import gated_rms_norm, rms_norm
from tests.reference.agree import assert_agree, assert_refused, gradients
from tests.reference.draws import normal

mpmath.mp.dps = 50


def test_every_element_is_that_of_fifty_digits() -> None:
    x, gate, weight = normal(3, 7, seed=0) * 10, normal(3, 7, seed=1) * 10, normal(7, seed=2)
    exact = [
        [
            float(
                mpmath.mpf(z) / (1 + mpmath.exp(-mpmath.mpf(z)))
                * mpmath.mpf(e) * mpmath.mpf(w)
                / mpmath.sqrt(mpmath.fsum(mpmath.mpf(a) ** 2 for a in row) / 7 + mpmath.mpf(1e-5))
            )
            for e, z, w in zip(row, gates, weight.tolist(), strict=True)
        ]
        for row, gates in zip(x.tolist(), gate.tolist(), strict=True)
    ]  # fmt: skip
    expected = torch.tensor(exact, dtype=torch.float64)
    assert_agree(gated_rms_norm(x, gate, weight, eps=1e-5), expected, operations=7 + 11, condition=expected.abs())


def second_formulation(x: torch.Tensor, gate: torch.Tensor, weight: torch.Tensor, *, eps: float) -> torch.Tensor:
    """The same as one quotient: ``x z w / ((1 + exp(-z)) sqrt(x . x / C + eps))``."""
    C = x.shape[-1]
    length: torch.Tensor = (torch.linalg.vecdot(x, x) / C + eps).sqrt().unsqueeze(-1)
    return x * gate * weight / ((1 + (-gate).exp()) * length)


def test_values_agree_with_a_second_formulation() -> None:
    x, gate, weight = normal(5, 9, seed=0), normal(5, 9, seed=1), normal(9, seed=2)
    expected = second_formulation(x, gate, weight, eps=1e-5)
    assert_agree(gated_rms_norm(x, gate, weight, eps=1e-5), expected, operations=9 + 18, condition=expected.abs())


def test_gradients_agree_with_a_second_formulation() -> None:
    x, gate, weight = normal(5, 9, seed=0), normal(5, 9, seed=1), normal(9, seed=2)
    ours = gradients([gated_rms_norm(x, gate, weight, eps=1e-5)], [x, gate, weight])
    theirs = gradients([second_formulation(x, gate, weight, eps=1e-5)], [x, gate, weight])
    largest = float(torch.cat([g.flatten() for g in theirs]).abs().max())
    for a, b in zip(ours, theirs, strict=True):
        assert_agree(a, b, operations=2 * 9 + 20, condition=largest)


def test_the_norm_ignores_the_gate() -> None:
    x, weight = normal(3, 8, seed=0), normal(8, seed=1)
    gate = torch.zeros(3, 8, dtype=torch.float64)
    gate[:, 2] = 3.0
    alone = gated_rms_norm(x, gate, weight, eps=1e-5)[:, 2]
    everywhere = gated_rms_norm(x, torch.full_like(gate, 3.0), weight, eps=1e-5)[:, 2]
    assert torch.equal(alone, everywhere)


def test_a_gate_far_above_zero_multiplies_by_itself() -> None:
    x, weight = normal(3, 8, seed=0), normal(8, seed=1)
    gate = torch.full((3, 8), 64.0, dtype=torch.float64)
    assert torch.equal(gated_rms_norm(x, gate, weight, eps=1e-5), 64 * rms_norm(x, weight, eps=1e-5))


def test_a_closed_gate_is_not_squared_or_a_sigmoid() -> None:
    x, weight = normal(3, 8, seed=0), normal(8, seed=1)
    gate = torch.full((3, 8), -20.0, dtype=torch.float64)
    expected = rms_norm(x, weight, eps=1e-5) * float(-20 * mpmath.exp(-20) / (1 + mpmath.exp(-20)))
    assert_agree(gated_rms_norm(x, gate, weight, eps=1e-5), expected, operations=8, condition=expected.abs())


def test_a_gate_of_zero_closes_and_passes_half_of_the_norm_back() -> None:
    x, weight = normal(3, 8, seed=0), normal(8, seed=1)
    gate = torch.zeros(3, 8, dtype=torch.float64, requires_grad=True)
    out = gated_rms_norm(x, gate, weight, eps=1e-5)
    (gradient,) = torch.autograd.grad(out.sum(), gate)
    norm = rms_norm(x, weight, eps=1e-5)
    assert not out.any()
    assert_agree(gradient, norm / 2, operations=4, condition=norm.abs())


@pytest.mark.parametrize("gate", [-1e300, -800.0, 800.0])
def test_large_gates_give_no_nan(gate: float) -> None:
    inputs = [normal(2, 3, seed=0), torch.full((2, 3), gate, dtype=torch.float64), normal(3, seed=1)]
    out = gated_rms_norm(*(item.requires_grad_() for item in inputs), eps=1e-6)
    grads = torch.autograd.grad(out.sum(), inputs)
    assert all(bool(item.isfinite().all()) for item in (out, *grads))


def test_zero_centred_weight_adds_one() -> None:
    x, gate, weight = normal(3, 8, seed=0), normal(3, 8, seed=1), normal(8, seed=2)
    zero_centred = gated_rms_norm(x, gate, weight, eps=1e-5, zero_centered=True)
    assert torch.equal(zero_centred, gated_rms_norm(x, gate, 1 + weight, eps=1e-5))


def test_a_zero_row_gives_zero_and_a_finite_gradient() -> None:
    x = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    gate, weight = normal(2, 4, seed=0), normal(4, seed=1)
    out = gated_rms_norm(x, gate, weight, eps=2.0**-20)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    expected = gate / (1 + (-gate).exp()) * weight * 2.0**10
    assert not out.any()
    assert_agree(gradient, expected, operations=8, condition=expected.abs())


def test_eps_stands_inside_the_root() -> None:
    x = torch.full((1, 4), 3e-4, dtype=torch.float64)
    gate = torch.full((1, 4), 64.0, dtype=torch.float64)
    out = gated_rms_norm(x, gate, torch.ones(4, dtype=torch.float64), eps=1.6e-7)
    assert_agree(out, torch.full_like(out, 64 * 3 / 5), operations=10, condition=64.0)


def test_a_gate_of_another_shape_is_refused() -> None:
    x, gate, weight = normal(2, 4, seed=0), normal(4, seed=0), normal(4, seed=0)
    assert_refused(lambda: gated_rms_norm(x, gate, weight, eps=1e-6), ValueError, "gate", "(4,)")


def test_a_wrong_weight_is_refused() -> None:
    x, gate, weight = normal(2, 4, seed=0), normal(2, 4, seed=0), normal(3, seed=0)
    assert_refused(lambda: gated_rms_norm(x, gate, weight, eps=1e-6), ValueError, "weight", "(3,)", "(C=4)")


def test_a_gate_of_another_dtype_is_refused() -> None:
    x, gate, weight = normal(2, 4, seed=0), normal(2, 4, seed=0).float(), normal(4, seed=0)
    assert_refused(lambda: gated_rms_norm(x, gate, weight, eps=1e-6), TypeError, "gate", "float32", "float64")


def test_an_epsilon_of_zero_is_refused() -> None:
    x, gate, weight = normal(2, 4, seed=0), normal(2, 4, seed=0), normal(4, seed=0)
    assert_refused(lambda: gated_rms_norm(x, gate, weight, eps=0.0), ValueError, "eps", "0.0", "positive")
