import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from optimized.eager.gated_delta_rule import gated_delta_rule
from optimized.eager.l2_norm import l2_norm, l2_norm_stored
from optimized.eager.log_sigmoid_decay import log_sigmoid_decay
from optimized.eager.mamba_decay import mamba_decay
from optimized.eager.rms_norm import rms_norm, rms_norm_stored
from optimized.eager.rope import rope, rope_stored
from optimized.eager.rope_tables import rope_tables
from optimized.eager.short_conv import short_conv, short_conv_stored
from optimized.eager.silu_mul import silu_mul, silu_mul_stored
from tests.optimized.formulas import convolution_by_loops, delta_rule_by_loops, half_ulp
from tests.reference.agree import EPS, assert_agree, assert_gradcheck, assert_refused
from tests.reference.draws import delta_rule_inputs, normal, tables

SIXTEEN = [torch.bfloat16, torch.float16]
FLOAT32_EPS = torch.finfo(torch.float32).eps


@pytest.mark.parametrize("norm", [rms_norm, rms_norm_stored])
@pytest.mark.parametrize("zero_centered", [False, True])
def test_rms_norm_is_its_formula(norm: Callable[..., Tensor], *, zero_centered: bool) -> None:
    x, weight = normal(3, 7, seed=0), normal(7, seed=1)
    gain = 1 + weight if zero_centered else weight
    expected = x / torch.sqrt((x**2).sum(-1, keepdim=True) / 7 + 0.1) * gain
    actual = norm(x, weight, eps=0.1, zero_centered=zero_centered)
    assert_agree(actual, expected, operations=7 + 8, condition=expected.abs())


@pytest.mark.parametrize("norm", [l2_norm, l2_norm_stored])
def test_l2_norm_is_its_formula(norm: Callable[..., Tensor]) -> None:
    x = normal(3, 7, seed=0)
    expected = x / torch.sqrt((x**2).sum(-1, keepdim=True) + 0.1)
    assert_agree(norm(x, eps=0.1), expected, operations=7 + 6, condition=expected.abs())


@pytest.mark.parametrize("norm", [l2_norm, lambda x: rms_norm(x, torch.ones(4), eps=1e-6)])
def test_a_zero_row_has_a_finite_gradient(norm: Callable[..., Tensor]) -> None:
    x = torch.zeros(2, 4, requires_grad=True)
    out = norm(x)
    (gradient,) = torch.autograd.grad(out, x, torch.ones_like(out))
    assert not out.any()
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("rotate", [rope, rope_stored])
@pytest.mark.parametrize("style", ["half", "interleaved"])
def test_rope_multiplies_complex_numbers(rotate: Callable[..., Tensor], style: str) -> None:
    x, (cos, sin) = normal(2, 3, 2, 6, seed=0), tables(2, 3, 6, style=style, seed=1)
    first, second = (slice(0, 3), slice(3, 6)) if style == "half" else (slice(0, 6, 2), slice(1, 6, 2))
    turned = torch.complex(x[..., first], x[..., second]) * torch.complex(cos, sin)[:, :, None, first]
    expected = torch.empty_like(x)
    expected[..., first], expected[..., second] = turned.real, turned.imag
    actual = rotate(x, cos, sin, style=style)
    assert_agree(actual, expected, operations=4, condition=2 * float(x.detach().abs().max()))


@pytest.mark.parametrize("scaling", [None, {"type": "linear", "factor": 4.0}, {"type": "ntk", "factor": 4.0}])
def test_rope_tables_are_cosines_of_powers(scaling: dict[str, object] | None) -> None:
    kind = None if scaling is None else scaling["type"]
    base = 100.0 * 4.0 ** (6 / 4) if kind == "ntk" else 100.0
    positions = torch.tensor([[0.0, 1.0, 5.0]], dtype=torch.float64)
    cos, sin = rope_tables(positions, rope_dim=6, base=100.0, style="interleaved", scaling=scaling)
    for token, position in enumerate(positions[0].tolist()):
        for pair in range(3):
            angle = position * base ** (-2 * pair / 6) / (4.0 if kind == "linear" else 1.0)
            both = torch.stack((cos[0, token, 2 * pair], sin[0, token, 2 * pair + 1]))
            expected = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
            assert_agree(both, expected, operations=6, condition=1 + angle)


def test_yarn_keeps_fast_angles_and_slows_slow_ones() -> None:
    scaling = {"type": "yarn", "factor": 8.0, "original_max_position": 64}
    one = torch.ones(1, 1, dtype=torch.float64)
    table = rope_tables(one, rope_dim=32, base=1e4, style="half", scaling=scaling)
    magnitude = 0.1 * math.log(8.0) + 1
    angles = torch.atan2(table.sin, table.cos)[0, 0, :16]
    plain = 1e4 ** (-torch.arange(16, dtype=torch.float64) / 16)
    assert_agree(angles[0], plain[0], operations=8, condition=1.0)
    assert_agree(angles[-1], plain[-1] / 8, operations=8, condition=1.0)
    assert_agree(table.cos**2 + table.sin**2, torch.full_like(table.cos, magnitude**2), operations=8, condition=2.0)


def test_rope_tables_are_right_to_the_last_bit_at_position_two_to_the_twenty() -> None:
    cos, _ = rope_tables(torch.tensor([[2**20]]), rope_dim=4, base=1e4, style="half")
    exact = torch.tensor([math.cos(2**20), math.cos(2**20 / 100)], dtype=torch.float64)
    assert cos.dtype == torch.float32
    # Both angles come from float64, so that half a unit of float32 remains, and what 2^20 units of float64 do.
    assert bool(((cos[0, 0, :2].double() - exact).abs() <= half_ulp(exact, torch.float32) + 2**20 * EPS).all())


@pytest.mark.parametrize("conv", [short_conv, short_conv_stored])
@pytest.mark.parametrize("tokens", [1, 2, 6])
def test_short_conv_is_its_sum(conv: Callable[..., Tensor], tokens: int) -> None:
    x, weight = normal(2, tokens, 3, seed=0), normal(3, 4, seed=1)
    condition = 4 * float(x.detach().abs().max() * weight.detach().abs().max())
    assert_agree(conv(x, weight), convolution_by_loops(x, weight), operations=4 + 6, condition=condition)


def test_short_conv_does_not_read_a_hidden_token() -> None:
    x, weight = normal(1, 4, 2, seed=0, requires_grad=False), normal(2, 3, seed=1)
    mask = torch.tensor([[True, False, True, True]])
    poisoned = x.clone()
    poisoned[0, 1] = math.nan
    assert torch.equal(short_conv(poisoned, weight, mask=mask), short_conv(x * mask[..., None], weight))


@pytest.mark.parametrize("multiply", [silu_mul, silu_mul_stored])
def test_silu_mul_is_its_formula(multiply: Callable[..., Tensor]) -> None:
    gate, x = normal(3, 5, seed=0), normal(3, 5, seed=1)
    expected = gate / (1 + (-gate).exp()) * x
    assert_agree(multiply(gate, x), expected, operations=6, condition=(1 + gate.abs()) * expected.abs())


def test_silu_mul_of_a_large_gate_is_the_gate_or_zero() -> None:
    gate = torch.tensor([-1e30, 1e30], requires_grad=True)
    out = silu_mul(gate, torch.ones(2))
    (gradient,) = torch.autograd.grad(out, gate, torch.ones(2))
    assert out.tolist() == [0.0, float(gate.detach()[1])]
    assert gradient.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mamba_decay_is_accurate_where_softplus_is_tiny(dtype: torch.dtype) -> None:
    decay = mamba_decay(torch.full((1, 1, 1), -40.0, dtype=dtype), torch.zeros(1), torch.zeros(1))
    expected = torch.full((1, 1, 1), -math.log1p(math.exp(-40)), dtype=torch.float64)
    # exp, log1p and a product, each within two units.
    assert bool((decay.double() - expected).abs() <= 6 * torch.finfo(dtype).eps * expected.abs())


def test_mamba_decay_has_no_step_where_softplus_becomes_the_identity() -> None:
    x = torch.tensor([[[19.0, 21.0, 30.0]]], dtype=torch.float64)
    decay = mamba_decay(x, torch.zeros(3), torch.zeros(3))
    expected = -(x + torch.log1p(torch.exp(-x)))
    assert_agree(decay, expected, operations=4, condition=expected.abs())


@pytest.mark.parametrize("x", [-40.0, 0.0, 40.0])
def test_log_sigmoid_decay_is_accurate_at_both_ends(x: float) -> None:
    decay = log_sigmoid_decay(torch.full((1, 1, 1), x, dtype=torch.float64), normalizer=16.0)
    exact = (min(x, 0.0) - math.log1p(math.exp(-abs(x)))) / 16
    expected = torch.full((1, 1, 1), exact, dtype=torch.float64)
    assert_agree(decay, expected, operations=4, condition=expected.abs())


def test_the_delta_rule_is_a_product_of_matrices() -> None:
    inputs = delta_rule_inputs(2, 5, 2, 4, 3, 2)
    q, k, v, log_decay, beta, state = inputs
    out, final = gated_delta_rule(q, k, v, log_decay, beta, scale=0.5, initial_state=state)
    expected = delta_rule_by_loops(*(x.detach() for x in inputs[:5]), scale=0.5, initial_state=state.detach())
    # Five steps of two sums over three channels each, on states that stay below 8.
    assert_agree(out, expected[0], operations=5 * 12, condition=8.0)
    assert_agree(final, expected[1], operations=5 * 12, condition=8.0)


def test_the_delta_rule_has_gradients_of_every_argument() -> None:
    inputs = delta_rule_inputs(1, 3, 1, 2, 2, 2)
    assert_gradcheck(
        lambda q, k, v, g, b, s: gated_delta_rule(q, k, v, g, b, scale=0.5, initial_state=s, normalize_qk=True),
        inputs, condition=1024.0,
    )  # fmt: skip


def test_packed_sequences_are_separate_ones() -> None:
    q, k, v, g, b, _ = (x.detach() for x in delta_rule_inputs(1, 5, 1, 2, 3, 2))
    states = normal(3, 2, 3, 2, seed=9, requires_grad=False)
    packed = gated_delta_rule(
        q, k, v, g, b, scale=0.5, initial_state=states, cu_seqlens=torch.tensor([0, 2, 2, 5])
    )  # fmt: skip
    parts = [
        gated_delta_rule(*(x[:, s] for x in (q, k, v, g, b)), scale=0.5, initial_state=states[i, None])
        for i, s in ((0, slice(0, 2)), (2, slice(2, 5)))
    ]
    assert torch.equal(packed.out, torch.cat([part.out for part in parts], dim=1))
    assert torch.equal(packed.final_state, torch.cat((parts[0].final_state, states[1, None], parts[1].final_state)))


def test_no_decay_is_a_decay_of_zero() -> None:
    q, k, v, g, b, _ = (x.detach() for x in delta_rule_inputs(1, 4, 1, 2, 3, 2))
    plain = gated_delta_rule(q, k, v, None, b, scale=0.5)
    assert torch.equal(plain.out, gated_delta_rule(q, k, v, torch.zeros_like(g), b, scale=0.5).out)


@pytest.mark.parametrize("dtype", SIXTEEN)
def test_sixteen_bits_are_rounded_once(dtype: torch.dtype) -> None:
    x, weight = normal(8, 64, seed=0).to(dtype), normal(64, seed=1).to(dtype)
    exact = rms_norm(x.double(), weight.double(), eps=1e-5)
    distance = (rms_norm(x, weight, eps=1e-5).double() - exact).abs()
    assert bool((distance <= half_ulp(exact, dtype) + (64 + 8) * FLOAT32_EPS * exact.abs()).all())


@pytest.mark.parametrize("dtype", SIXTEEN)
def test_states_and_decays_of_sixteen_bits_stay_in_float32(dtype: torch.dtype) -> None:
    q, k, v, g, b, _ = (x.detach().to(dtype) for x in delta_rule_inputs(1, 3, 1, 2, 3, 2))
    out, state = gated_delta_rule(q, k, v, g.float(), b, scale=0.5)
    decays = (mamba_decay(b, torch.zeros(2), torch.zeros(2)), log_sigmoid_decay(b, normalizer=1.0))
    assert out.dtype == dtype
    assert {x.dtype for x in (state, *decays)} == {torch.float32}


X = torch.zeros(2, 3, 2, 4)
REFUSALS: dict[str, tuple[Callable[[], object], tuple[str, ...]]] = {
    "rms_norm weight": (lambda: rms_norm(X, torch.zeros(3), eps=1e-6), ("weight", "(3,)", "(4)")),
    "rope odd width": (lambda: rope(X[..., :3], X[..., 0, :3], X[..., 0, :3], style="half"), ("x width", "3", "2")),
    "rope style": (lambda: rope(X, X[:, :, 0], X[:, :, 0], style="both"), ("style", "'both'", "'interleaved'")),
    "rope_tables scaling": (
        lambda: rope_tables(torch.zeros(1, 1), rope_dim=4, base=10.0, style="half", scaling={"type": "x", "factor": 2}),
        ("scaling", "'x'", "'yarn'"),
    ),
    "rope_tables entries": (
        lambda: rope_tables(torch.zeros(1, 1), rope_dim=4, base=10.0, style="half", scaling={"type": "linear"}),
        ("scaling", "['type']", "'factor'"),
    ),
    "short_conv weight": (lambda: short_conv(X[:, :, 0], torch.zeros(3, 2)), ("weight", "(3, 2)", "(4, K)")),
    "silu_mul shape": (lambda: silu_mul(X, X[0]), ("x", "(3, 2, 4)", "(2, 3, 2, 4)")),
    "mamba_decay a_log": (lambda: mamba_decay(X[0], torch.zeros(3), torch.zeros(4)), ("a_log", "(3,)", "(4)")),
    "normalizer": (lambda: log_sigmoid_decay(X[0], normalizer=0.0), ("normalizer", "0.0", "positive")),
    "delta rule heads": (
        lambda: gated_delta_rule(X, X, X[:, :, :1], None, X[:, :, :1, 0], scale=1.0),
        ("value heads", "1", "multiple of 2"),
    ),
    "delta rule offsets": (
        lambda: gated_delta_rule(X[:1], X[:1], X[:1], None, X[:1, ..., 0], scale=1.0, cu_seqlens=torch.tensor([0, 2])),
        ("cu_seqlens", "[0, 2]", "0 to 3"),
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_bad_input_is_refused_with_a_sentence(case: str) -> None:
    call, parts = REFUSALS[case]
    assert_refused(call, ValueError, *parts)
