import dataclasses

import pytest
import torch
from torch import Tensor

import reference
from harness.operations.base import Inputs, Operation, output_dtype, storage_dtype
from harness.operations.case import Case
from harness.ops import OPS
from harness.strategies import draw_cases
from harness.truth import GRAD, truth

NAMES = (
    "rms_norm", "gated_rms_norm", "l2_norm", "rope", "rope_tables", "short_conv", "silu_mul", "mamba_decay",
    "log_sigmoid_decay",
    "attention", "varlen_attention", "gated_delta_rule", "low_rank_projection", "flash_sdpa",
    "grouped_query_attention", "multi_head_latent_attention", "gated_delta_net",
)  # fmt: skip
CONSTANT_REGIMES = {"rope_tables": ("zero",), "gated_delta_rule": ("no_decay",)}
"""Regimes that are a constant by their name."""


def drawn(op: str, count: int = 12) -> list[tuple[Operation, Case, Inputs]]:
    row = OPS[op]
    found = draw_cases(row, count, seed_value=23, largest=20, dtypes=("float32", "bfloat16", "float16"))
    return [(row, case, row.inputs(case)) for case in found]


def tensors_of(inputs: Inputs) -> dict[str, Tensor]:
    return {**inputs.tensors, **{f"cotangent of {name}": item for name, item in inputs.cotangents.items()}}


def is_constant(value: Tensor) -> bool:
    """Returns whether all of at least two elements are equal."""
    return value.numel() > 1 and bool((value == value.flatten()[0]).all())


def test_the_table_has_every_operation() -> None:
    assert tuple(OPS) == NAMES


@pytest.mark.parametrize("op", NAMES)
def test_the_reference_is_that_of_the_name(op: str) -> None:
    assert OPS[op].reference is getattr(reference, op)


@pytest.mark.parametrize("op", NAMES)
def test_inputs_follow_from_the_case_alone(op: str) -> None:
    for row, case, inputs in drawn(op):
        torch.manual_seed(1)
        again = tensors_of(row.inputs(case))
        assert all(torch.equal(again[name], item) for name, item in tensors_of(inputs).items())


@pytest.mark.parametrize("op", NAMES)
def test_making_inputs_leaves_the_global_generator_alone(op: str) -> None:
    before = torch.get_rng_state()
    drawn(op, 3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("op", [op for op in NAMES if op != "rope_tables"])
def test_another_seed_makes_other_values(op: str) -> None:
    for row, case, inputs in drawn(op, 3):
        other = row.inputs(case.replaced(seed=case.seed + 1, regime="normal"))
        name = row.positional[0]
        assert not torch.equal(other.tensors[name], inputs.tensors[name])


@pytest.mark.parametrize("op", NAMES)
def test_inputs_are_in_storage_dtype(op: str) -> None:
    for _, case, inputs in drawn(op):
        floating = [item for item in inputs.tensors.values() if item.is_floating_point()]
        assert {item.dtype for item in floating} <= {storage_dtype(case.dtype)}


@pytest.mark.parametrize("op", NAMES)
def test_cotangents_have_the_dtype_of_their_outputs(op: str) -> None:
    for row, case, inputs in drawn(op):
        wanted = {output.name: output_dtype(output, case.dtype) for output in row.outputs}
        assert {name: item.dtype for name, item in inputs.cotangents.items()} == wanted


@pytest.mark.parametrize("op", NAMES)
def test_inputs_are_finite_except_what_a_bias_hides(op: str) -> None:
    for _, _, inputs in drawn(op):
        for name, item in tensors_of(inputs).items():
            hidden = torch.isneginf(item) if name == "bias" else torch.zeros_like(item, dtype=torch.bool)
            assert bool((torch.isfinite(item) | hidden).all())


@pytest.mark.parametrize("op", NAMES)
def test_inputs_have_storages_of_their_own(op: str) -> None:
    for _, _, inputs in drawn(op):
        places = [item.untyped_storage().data_ptr() for item in tensors_of(inputs).values() if item.numel()]
        assert len(set(places)) == len(places)


@pytest.mark.parametrize("op", NAMES)
def test_the_reference_accepts_what_is_drawn(op: str) -> None:
    for row, _, inputs in drawn(op, 6):
        names = [output.name for output in row.outputs]
        found = truth(row, inputs, names, with_gradients=True).expected
        assert set(found) == {*names, *(GRAD + name for name in row.differentiable(inputs.tensors))}


@pytest.mark.parametrize("op", NAMES)
def test_expected_values_are_float64(op: str) -> None:
    row, _, inputs = drawn(op, 1)[0]
    found = truth(row, inputs, [output.name for output in row.outputs], with_gradients=True).expected
    assert {value.dtype for value in found.values()} == {torch.float64}


@pytest.mark.parametrize("op", NAMES)
def test_outputs_have_the_axes_that_they_are_said_to_have(op: str) -> None:
    row, _, inputs = drawn(op, 1)[0]
    found = truth(row, inputs, [output.name for output in row.outputs], with_gradients=False).expected
    assert {name: value.dim() for name, value in found.items()} == {out.name: len(out.axes) for out in row.outputs}


@pytest.mark.parametrize("op", NAMES)
def test_no_cotangent_is_constant(op: str) -> None:
    for _, case, inputs in drawn(op, 30):
        for item in inputs.cotangents.values():
            # With one entry per row, or signs of one size, two or three equal elements are no accident.
            assert not (is_constant(item) and item.numel() > 16 and case.cotangent != "expanded")


@pytest.mark.parametrize("op", NAMES)
def test_every_parameter_is_random(op: str) -> None:
    for row, case, inputs in drawn(op):
        if case.regime in CONSTANT_REGIMES.get(op, ()):
            continue
        for name in row.differentiable(inputs.tensors):
            assert not (is_constant(inputs.tensors[name]) and inputs.tensors[name].numel() > 16), name


@pytest.mark.parametrize("op", NAMES)
def test_masks_and_offsets_have_no_gradient(op: str) -> None:
    for row, _, inputs in drawn(op):
        named = row.differentiable(inputs.tensors)
        assert all(inputs.tensors[name].is_floating_point() for name in named)
        assert not {"cos", "sin", "positions", "key_mask", "mask", "cu_seqlens"} & set(named)


@pytest.mark.parametrize("op", NAMES)
def test_a_truth_without_directions_has_no_tangents(op: str) -> None:
    row, _, inputs = drawn(op, 1)[0]
    plain = dataclasses.replace(row, directions=())
    assert truth(plain, inputs, [row.outputs[0].name], with_gradients=False).tangents == {}
