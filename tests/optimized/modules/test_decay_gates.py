"""The parameters that choose a decay gate, and what a new gate holds."""

import math
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from optimized.modules import (
    AnyDecayGateParameters,
    LogSigmoidDecayGate,
    LogSigmoidDecayGateParameters,
    MambaDecayGate,
    MambaDecayGateParameters,
)
from optimized.modules.decay_gates import make_decay_gate

ANY: TypeAdapter[AnyDecayGateParameters] = TypeAdapter(AnyDecayGateParameters)
MAMBA: dict[str, Any] = {"type": "mamba", "normalizer": 16.0, "dt_min": 1e-3, "dt_max": 0.1, "dt_init_floor": 1e-4}
LOG_SIGMOID: dict[str, Any] = {"type": "logsigmoid", "normalizer": 4.0}
MANY = 4096


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Draws the same gates in every run: an end of an interval is missed once in a million of them."""
    torch.manual_seed(0)


def _dt(gate: MambaDecayGate) -> torch.Tensor:
    """Returns softplus of the gate's bias in float64."""
    return torch.nn.functional.softplus(gate.dt_bias.detach().double())


def _roundings_of_dt(smallest: float) -> float:
    """Returns the largest relative error of softplus(dt_bias), for a dt of at least ``smallest``.

    An error ``e`` of the bias is one of at most ``e`` relative in dt, and dt, its exponent and the bias, which is about
    ``log(smallest)``, are each rounded to float32 a few times.
    """
    return 4 * float(torch.finfo(torch.float32).eps) * (1 - math.log(smallest))


def _rounding_of_a_rate(largest: float) -> float:
    """Returns the largest relative error of exp(A_log), for an A of about ``largest``.

    A is rounded to float32 once, which is relative; its logarithm once or twice, which is relative to the logarithm.
    """
    return float(torch.finfo(torch.float32).eps) * (1 + math.log(largest))


@pytest.mark.parametrize(
    ("mapping", "model"), [(MAMBA, MambaDecayGateParameters), (LOG_SIGMOID, LogSigmoidDecayGateParameters)]
)
def test_the_type_tells_the_models_apart(mapping: dict[str, Any], model: type) -> None:
    parameters = ANY.validate_python(mapping)
    assert (type(parameters), parameters.model_dump()) == (model, mapping)


@pytest.mark.parametrize("mapping", [MAMBA, LOG_SIGMOID])
def test_parameters_survive_json(mapping: dict[str, Any]) -> None:
    parameters = ANY.validate_python(mapping)
    assert ANY.validate_json(parameters.model_dump_json()) == parameters


@pytest.mark.parametrize(
    ("mapping", "reason"),
    [
        ({**MAMBA, "dt_mean": 0.01}, "extra_forbidden"),
        ({**LOG_SIGMOID, "dt_min": 0.01}, "extra_forbidden"),
        ({**LOG_SIGMOID, "type": "sigmoid"}, "union_tag_invalid"),
        ({"normalizer": 16.0}, "union_tag_not_found"),
        ({"type": "mamba", "normalizer": 16.0}, "missing"),
        ({"type": "logsigmoid"}, "missing"),
        ({**LOG_SIGMOID, "normalizer": 0.0}, "greater_than"),
        ({**LOG_SIGMOID, "normalizer": math.inf}, "finite_number"),
        ({**MAMBA, "dt_min": 0.2}, "value_error"),
        ({**MAMBA, "dt_init_floor": -1.0}, "greater_than"),
    ],
)
def test_parameters_are_refused(mapping: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        ANY.validate_python(mapping)
    assert reason in {error["type"] for error in refusal.value.errors()}


@pytest.mark.parametrize(("mapping", "module"), [(MAMBA, MambaDecayGate), (LOG_SIGMOID, LogSigmoidDecayGate)])
def test_parameters_make_their_gate(mapping: dict[str, Any], module: type) -> None:
    gate = make_decay_gate(ANY.validate_python(mapping), hidden_size=3, num_heads=2, backend=None)
    assert type(gate) is module


def test_a_new_mamba_gate_draws_its_rates_up_to_the_normalizer() -> None:
    rates = MambaDecayGate(1, MANY, normalizer=5.0).A_log.detach().double().exp()
    assert 0 < float(rates.min()) < 0.1
    assert 4.9 < float(rates.max()) <= 5.0 * (1 + _rounding_of_a_rate(5.0))


def test_a_new_mamba_gate_draws_its_steps_between_their_ends() -> None:
    dt = _dt(MambaDecayGate(1, MANY, dt_min=0.01, dt_max=0.2))
    rounding = _roundings_of_dt(0.01)
    assert 0.01 * (1 - rounding) <= float(dt.min()) < 0.0101
    assert 0.198 < float(dt.max()) <= 0.2 * (1 + rounding)


def test_half_of_the_steps_are_below_the_geometric_mean() -> None:
    dt = _dt(MambaDecayGate(1, MANY, dt_min=0.001, dt_max=0.1))
    below = int((dt < 0.01).sum())
    assert abs(below - MANY / 2) <= 6 * math.sqrt(MANY) / 2, "six standard deviations of a fair coin"


def test_no_step_of_a_new_mamba_gate_is_below_the_floor() -> None:
    dt = _dt(MambaDecayGate(1, MANY, dt_min=0.001, dt_max=0.1, dt_init_floor=0.05))
    assert float(dt.min()) == pytest.approx(0.05, rel=_roundings_of_dt(0.05))


def test_rates_are_float32_whatever_the_default_dtype() -> None:
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        gate = MambaDecayGate(3, 2)
    finally:
        torch.set_default_dtype(default)
    assert (gate.A_log.dtype, gate.dt_bias.dtype) == (torch.float32, torch.float32)
    assert gate.proj.weight.dtype == torch.bfloat16
