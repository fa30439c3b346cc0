from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from harness.emulators.arithmetic import Arithmetic
from harness.emulators.layer_parts import uses
from harness.emulators.rounding import Nearest
from optimized.candidate import Candidate, Recipe
from tests.harness.emulation import plain_candidates, worst_of_candidate, worst_of_fault

LAYERS = (
    "low_rank_projection", "flash_sdpa", "grouped_query_attention", "multi_head_latent_attention", "gated_delta_net",
)  # fmt: skip
TENSOR_CORE = Recipe(storage="bfloat16", operand="bfloat16", accumulator="float32")


@pytest.mark.parametrize("candidate", plain_candidates(LAYERS), ids=lambda candidate: candidate.name)
def test_a_healthy_layer_is_within_its_budget(candidate: Candidate) -> None:
    assert worst_of_candidate(candidate, count=5) <= 1


@pytest.mark.parametrize(
    ("op", "point", "change"),
    [
        pytest.param("low_rank_projection", "norm.root", lambda x: x * 1.125, id="another-mean"),
        pytest.param("grouped_query_attention", "hidden_states.0.grad", lambda x: x / 2, id="a-gradient-twice"),
        pytest.param("grouped_query_attention", "v_proj.stored", lambda x: x.flip(-1), id="channels-reversed"),
        pytest.param("multi_head_latent_attention", "k_rope.heads.grad", torch.zeros_like, id="shared-key-forgotten"),
        pytest.param("multi_head_latent_attention", "kv_down_norm.root", lambda x: x * 1.125, id="another-mean"),
        pytest.param("gated_delta_net", "beta", lambda x: 1 - x, id="beta-complemented"),
        pytest.param("gated_delta_net", "qkv_conv1d.stored", torch.relu, id="another-activation"),
    ],
)
def test_a_wrong_line_exceeds_the_budget(op: str, point: str, change: Callable[[Tensor], Tensor]) -> None:
    assert worst_of_fault(op, TENSOR_CORE, point, change, count=6) > 1


def test_gradients_of_a_shared_tensor_are_stored_one_by_one() -> None:
    x = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    arithmetic = Arithmetic(TENSOR_CORE, Nearest())
    first, second, third = uses(arithmetic, "x", x, 3)
    # In bfloat16 the spacing of numbers is 2 above 256: each 1 alone is lost, both together would not be.
    (grad,) = torch.autograd.grad((first + second + 256 * third).sum(), x)
    assert grad.item() == 256
