"""What is timed is verified, on a part of the call; floors are those of the formulas."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo.config as graphs
import torch._functorch.config as functions
from torch import Tensor

from harness.bench.calls import PHASES
from harness.bench.contenders import Contender
from harness.bench.inputs import timed_inputs
from harness.bench.parts import PartJudge
from harness.bench.peers import PEERS, prepare_compiler
from harness.bench.shapes import REHEARSED, TIMED, standard_cases
from harness.bench.standard import BEYOND, Bench
from harness.operations.case import Case
from harness.ops import operation
from harness.records import Verdict
from optimized.candidate import Recipe

RECIPE = Recipe(storage="bfloat16", operand="float32", accumulator="float32")


def case_of(op: str) -> Case:
    return next(standard_cases(op, dtype="bfloat16", is_rehearsal=True))


def judged(op: str, function: Callable[..., Any]) -> Verdict:
    case = case_of(op)
    return PartJudge(operation(op), case, timed_inputs(case, "cpu", 1)).judged(function, RECIPE)[0]


def silu_mul(gate: Tensor, x: Tensor) -> Tensor:
    return (torch.nn.functional.silu(gate.float()) * x.float()).to(x.dtype)


class _WrongGradient(torch.autograd.Function):
    """Right forward, five percent too much backward."""

    @staticmethod
    def forward(_: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return gradient * 1.05


def test_a_right_kernel_passes_on_its_part() -> None:
    assert judged("silu_mul", silu_mul) is Verdict.PASS


def test_a_planted_gain_is_seen_in_the_part() -> None:
    assert judged("silu_mul", lambda gate, x: 1.05 * silu_mul(gate, x)) is Verdict.FAIL_NUMERIC


def test_a_planted_fault_of_a_gradient_is_seen_in_the_part() -> None:
    def wrong(gate: Tensor, x: Tensor) -> Tensor:
        return silu_mul(_WrongGradient.apply(gate), x)  # type: ignore[no-untyped-call]

    assert judged("silu_mul", wrong) is Verdict.FAIL_NUMERIC


@pytest.mark.parametrize("op", sorted(TIMED))
def test_the_part_of_a_call_has_the_gradients_of_the_whole(op: str) -> None:
    case = case_of(op)
    row = operation(op)
    exact = Recipe(storage="float64", operand="float64", accumulator="float64")
    wide = case.replaced(dtype="float64")
    judge = PartJudge(row, wide, timed_inputs(wide, "cpu", 1))
    assert judge.judged(row.reference, exact) == (Verdict.PASS, "")


def test_every_timed_operation_is_rehearsed() -> None:
    assert REHEARSED.keys() == TIMED.keys()


def test_all_standard_shapes_are_cases() -> None:
    cases = [case for op in TIMED for case in standard_cases(op, dtype="bfloat16", is_rehearsal=False)]
    assert len({case.case_id for case in cases}) == sum(map(len, TIMED.values()))


def test_peers_are_of_timed_operations() -> None:
    assert PEERS.keys() <= TIMED.keys()


@pytest.mark.parametrize("is_prepared", [True, False])
def test_what_is_compiled_is_compiled_at_every_shape(*, is_prepared: bool) -> None:
    """Without it, torch gives up at its limit and says nothing."""
    shapes = []

    def backend(graph: torch.fx.GraphModule, examples: list[Tensor]) -> Callable[..., Any]:
        shapes.append(examples[0].shape)
        return graph.forward

    torch._dynamo.reset()  # what the other call of this test has compiled is kept by the lambda's code
    kept: dict[str, Any] = {"recompile_limit": 8, "fail_on_recompile_limit_hit": False}
    with graphs.patch(kept), functions.patch(donated_buffer=functions.donated_buffer):
        if is_prepared:
            prepare_compiler()
        doubled = torch.compile(lambda x: 2 * x, backend=backend, dynamic=False)
        for size in range(1, 13):
            doubled(torch.ones(size))
    assert len(shapes) == (12 if is_prepared else 8)


def test_ours_gets_no_time_without_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(operation("silu_mul"), "cpu", "bfloat16", 1, graphs=False)
    monkeypatch.setattr(bench, "_function", lambda _: lambda gate, x: 2 * silu_mul(gate, x))
    lines = [line for line in bench.lines(case_of("silu_mul")) if line["is_ours"]]
    assert [(line["verdict"], line["phase"]) for line in lines] == [("FAIL_NUMERIC", "")]


def of_a_peer(monkeypatch: pytest.MonkeyPatch, *, states_recipe: bool) -> list[dict[str, Any]]:
    """Returns the lines of a kernel of somebody else's that is twice what it should be."""
    bench = Bench(operation("silu_mul"), "cpu", "bfloat16", 1, graphs=False)
    peer = Contender(
        "peer", load=lambda: lambda gate, x: 2 * silu_mul(gate, x), recipe=RECIPE, states_recipe=states_recipe
    )
    monkeypatch.setattr(bench, "_contenders", [peer])
    return [line for line in bench.lines(case_of("silu_mul")) if line["arm"]]


def test_beyond_the_recipe_of_ours_a_peer_has_not_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *timed = of_a_peer(monkeypatch, states_recipe=False)
    assert first["verdict"] == BEYOND
    # Stored in bfloat16, a value is off by 2^-9 of it at most, and twice as much is by twice as much.
    assert first["errors"]["out"] == pytest.approx(1, abs=2.0**-8)
    assert first["errors"].keys() == {"out", "grad:gate", "grad:x"}
    assert {line["phase"] for line in timed} == set(PHASES)
    assert {line["timed_verdict"] for line in timed} == {BEYOND}


def test_beyond_its_own_recipe_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *timed = of_a_peer(monkeypatch, states_recipe=True)
    assert {first["verdict"], *(line["timed_verdict"] for line in timed)} == {"FAIL_NUMERIC"}
