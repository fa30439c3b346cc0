from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from harness.emulators import linear, silu_mul
from harness.emulators.arithmetic import Arithmetic
from harness.emulators.parts import stage
from harness.emulators.rounding import Identity, Random
from optimized.candidate import Candidate, Recipe
from tests.harness.emulation import EXACT, plain_candidates, worst_of_candidate, worst_of_fault
from tests.reference.agree import assert_agree

SIMPLE = (
    "rms_norm", "gated_rms_norm", "l2_norm", "rope", "rope_tables", "short_conv", "silu_mul", "mamba_decay",
    "log_sigmoid_decay",
)  # fmt: skip
FUSED = Recipe(storage="bfloat16", operand="float32", accumulator="float32")
SINGLE = Recipe(storage="float32", operand="float32", accumulator="float32")


@pytest.mark.parametrize("candidate", plain_candidates(SIMPLE), ids=lambda candidate: candidate.name)
def test_a_healthy_kernel_is_within_its_budget(candidate: Candidate) -> None:
    assert worst_of_candidate(candidate, count=8) <= 1


@pytest.mark.parametrize(
    ("op", "recipe", "point", "change"),
    [
        pytest.param("rms_norm", FUSED, "root", lambda x: x.bfloat16().double(), id="root-in-bfloat16"),
        pytest.param("rms_norm", FUSED, "weight.grad", lambda x: x * (1 - 2**-6), id="rows-lost-from-a-sum"),
        pytest.param("gated_rms_norm", FUSED, "root", lambda x: x.bfloat16().double(), id="gated-root-in-bfloat16"),
        pytest.param("gated_rms_norm", FUSED, "norm", lambda x: x.bfloat16().double(), id="norm-stored-in-bfloat16"),
        pytest.param("gated_rms_norm", FUSED, "silu.slope", torch.sigmoid, id="gate-slope-of-another-function"),
        pytest.param("l2_norm", SINGLE, "shifted", lambda x: x - 2**-30, id="another-eps"),
        pytest.param("rope", FUSED, "x.grad", lambda x: x.flip(-1), id="pairs-swapped"),
        pytest.param("rope_tables", SINGLE, "angle", lambda x: x + 2**-18, id="angle-in-float32"),
        pytest.param("short_conv", FUSED, "silu.slope", torch.sigmoid, id="slope-of-another-function"),
        pytest.param("short_conv", SINGLE, "sum", lambda x: x.float().bfloat16().double(), id="sum-in-bfloat16"),
        pytest.param("silu_mul", SINGLE, "silu.sigmoid", lambda x: x + 2**-20, id="logistic-off"),
        pytest.param("mamba_decay", FUSED, "step", lambda x: x + 2**-22, id="softplus-without-log1p"),
        pytest.param("log_sigmoid_decay", FUSED, "out", lambda x: x.bfloat16().double(), id="decay-in-bfloat16"),
    ],
)
def test_a_wrong_line_exceeds_the_budget(
    op: str, recipe: Recipe, point: str, change: Callable[[Tensor], Tensor]
) -> None:  # fmt: skip
    assert worst_of_fault(op, recipe, point, change, count=8) > 1


def test_a_projection_without_rounding_is_a_matrix_product() -> None:
    x, weight = _normal(1, 2, 3, 5), _normal(1, 4, 5)
    out = linear.emulate(Arithmetic(EXACT, Identity()), {"x": x, "weight": weight}, {})["out"]
    assert_agree(out, x @ weight.transpose(-1, -2), operations=5, condition=x.abs() @ weight.abs().transpose(-1, -2))


def test_a_projection_sums_the_gradient_of_its_weight_over_all_tokens() -> None:
    x, weight, grad = _normal(1, 2, 3, 5), _normal(1, 4, 5).requires_grad_(), _normal(1, 2, 3, 4)
    out = linear.emulate(Arithmetic(EXACT, Identity()), {"x": x, "weight": weight}, {})["out"]
    (actual,) = torch.autograd.grad(out, weight, grad)
    rows, grads = x.flatten(0, 2), grad.flatten(0, 2)
    assert_agree(actual[0], grads.mT @ rows, operations=6, condition=grads.abs().mT @ rows.abs())


def test_samples_are_different_executions() -> None:
    gate, x = (item.expand(8, 2, 3, 5) for item in (_normal(1, 2, 3, 5), _normal(1, 2, 3, 5)))
    out = silu_mul.emulate(Arithmetic(SINGLE, Random(8, seed=0)), {"gate": gate, "x": x}, {})["out"]
    assert len({tuple(sample.tolist()) for sample in out.flatten(1)}) == 8


def test_points_of_a_stage_carry_its_name() -> None:
    seen: list[str] = []

    class Recorder(Identity):
        def round(self, point: str, value: Tensor, fmt: str, *, keeps_exact: bool) -> Tensor:
            seen.append(point)
            return super().round(point, value, fmt, keeps_exact=keeps_exact)

    stage(stage(Arithmetic(SINGLE, Recorder()), "outer"), "inner").keep("point", _normal(1, 2))
    assert seen == ["outer.inner.point"]


def _normal(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)
