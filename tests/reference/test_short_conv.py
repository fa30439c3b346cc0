import mpmath
import torch
from torch import Tensor

from reference import short_conv
from tests.reference.agree import assert_agree, assert_refused, gradients
from tests.reference.draws import normal

mpmath.mp.dps = 50


def _silu(values: Tensor) -> Tensor:
    exact = [float(mpmath.mpf(v) / (1 + mpmath.exp(-mpmath.mpf(v)))) for v in values.flatten().tolist()]
    return torch.tensor(exact, dtype=torch.float64).reshape(values.shape)


def test_an_impulse_returns_the_taps_from_the_last_to_the_first() -> None:
    x = torch.zeros(1, 5, 2, dtype=torch.float64)
    x[0, 1] = 1.0
    weight = normal(2, 3, seed=0, requires_grad=False)
    expected = torch.zeros(1, 5, 2, dtype=torch.float64)
    expected[0, 1:4] = _silu(weight.flip(1).T)
    assert_agree(short_conv(x, weight), expected, operations=6, condition=1 + expected.abs())


def test_tokens_are_the_coefficients_of_a_product_of_polynomials() -> None:
    tokens, taps = [1.0, -2.0, 3.0, 0.5], [0.25, -1.5, 2.0]
    x = torch.tensor(tokens, dtype=torch.float64).reshape(1, 4, 1)
    weight = torch.tensor([taps], dtype=torch.float64)
    product = [2.0, -5.5, 9.25, -4.0]
    expected = _silu(torch.tensor(product, dtype=torch.float64)).reshape(1, 4, 1)
    assert_agree(short_conv(x, weight), expected, operations=6, condition=expected.abs())


def test_fewer_tokens_than_taps_see_zeros_before_the_start() -> None:
    x, weight = normal(2, 2, 3, seed=0), normal(3, 5, seed=1)
    longer = torch.cat((torch.zeros(2, 4, 3, dtype=torch.float64), x), 1)
    assert torch.equal(short_conv(x, weight), short_conv(longer, weight)[:, 4:])


def test_one_token_meets_the_last_tap() -> None:
    x, weight = normal(2, 1, 3, seed=0), normal(3, 4, seed=1)
    product = x * weight[:, -1]
    assert_agree(short_conv(x, weight), _silu(product.detach()), operations=6, condition=1 + product.abs())


def test_gradients_agree_with_a_grouped_convolution() -> None:
    x, weight = normal(2, 6, 3, seed=0), normal(3, 4, seed=1)
    padded = torch.nn.functional.pad(x.mT, (3, 0))
    theirs = torch.nn.functional.silu(torch.nn.functional.conv1d(padded, weight[:, None], groups=3)).mT
    ours = short_conv(x, weight)
    assert_agree(ours, theirs, operations=4 + 4, condition=float(theirs.detach().abs().max()))
    for a, b in zip(gradients([ours], [x, weight]), gradients([theirs], [x, weight]), strict=True):
        assert_agree(a, b, operations=12 + 10, condition=float(b.abs().max()))


def test_the_mask_multiplies_the_tokens_first() -> None:
    x, weight = normal(2, 4, 3, seed=0), normal(3, 3, seed=1)
    mask = torch.tensor([[True, False, True, True], [False, True, True, False]])
    assert torch.equal(short_conv(x, weight, mask=mask), short_conv(x * mask[..., None], weight))


def test_a_mask_of_numbers_is_legal() -> None:
    x, weight, mask = normal(2, 4, 3, seed=0), normal(3, 3, seed=1), normal(2, 4, seed=2)
    assert torch.equal(short_conv(x, weight, mask=mask), short_conv(x * mask[..., None], weight))


def test_no_tokens_are_legal() -> None:
    assert short_conv(normal(2, 0, 3, seed=0), normal(3, 4, seed=1)).shape == (2, 0, 3)


def test_a_transposed_weight_is_refused() -> None:
    x, weight = normal(2, 5, 3, seed=0), normal(4, 3, seed=1)
    assert_refused(lambda: short_conv(x, weight), ValueError, "weight", "(4, 3)", "C=3")


def test_an_integer_mask_is_refused() -> None:
    x, weight, mask = normal(2, 4, 3, seed=0), normal(3, 3, seed=1), torch.ones(2, 4, dtype=torch.int64)
    assert_refused(lambda: short_conv(x, weight, mask=mask), TypeError, "mask", "int64")


def test_a_mask_of_another_length_is_refused() -> None:
    x, weight, mask = normal(2, 4, 3, seed=0), normal(3, 3, seed=1), torch.ones(2, 5, dtype=torch.bool)
    assert_refused(lambda: short_conv(x, weight, mask=mask), ValueError, "mask", "(2, 5)", "T=4")


def test_no_taps_are_refused() -> None:
    assert_refused(lambda: short_conv(normal(2, 4, 3, seed=0), normal(3, 0, seed=1)), ValueError, "weight", "K >= 1")
