"""Derivatives and conditions of balls against closed forms and against differences."""

from collections.abc import Callable
from typing import Any

import flint
import numpy as np
import pytest

from harness.certify import balls
from harness.certify.balls import Ball, conditions, constant, gradients, leaves
from harness.certify.case import Case, Numbers, call
from harness.certify.cases import cases_of
from harness.certify.certify import BITS, OPERATIONS
from harness.certify.examine import ENCLOSURES


def leaf(number: float) -> Ball:
    ball: Ball = leaves(np.array([number])).item(0)
    return ball


def derivative(function: Callable[[Any], Any], number: float) -> flint.arb:
    x = leaf(number)
    return gradients([function(x)], [constant(1)], [x])[0].value


CLOSED_FORMS: dict[str, tuple[Callable[[Any], Any], Callable[[flint.arb], flint.arb]]] = {
    "product": (lambda x: x * x * x, lambda x: 3 * x * x),
    "quotient": (lambda x: (x - 1) / (x * x + 2), lambda x: (2 + 2 * x - x * x) / (x * x + 2) ** 2),
    "reflected": (lambda x: (1 - x) * (2 / x), lambda x: -2 / (x * x)),
    "exp": (lambda x: balls.exp(x * x), lambda x: 2 * x * (x * x).exp()),
    "log": (balls.log, lambda x: 1 / x),
    "sqrt": (balls.sqrt, lambda x: x.rsqrt() / 2),
    "sigmoid": (balls.sigmoid, lambda x: 1 / (2 + 2 * x.cosh())),
    "softplus": (balls.softplus, lambda x: 1 / (1 + (-x).exp())),
    "silu": (balls.silu, lambda x: (1 + (-x).exp() + x * (-x).exp()) / (1 + (-x).exp()) ** 2),
    "normaliser": (lambda x: 1 / balls.normaliser(x), lambda x: -1 / (x * x)),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize("number", [0.75, 3.5])
def test_a_derivative_encloses_its_closed_form(name: str, number: float) -> None:
    function, closed = CLOSED_FORMS[name]
    with flint.ctx.workprec(BITS):
        assert derivative(function, number).overlaps(closed(flint.arb(number)))


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_a_derivative_is_sharp(name: str) -> None:
    with flint.ctx.workprec(BITS):
        assert derivative(CLOSED_FORMS[name][0], 0.75).rel_accuracy_bits() > BITS - 16


def test_a_gradient_can_be_differentiated_again() -> None:
    with flint.ctx.workprec(BITS):
        x = leaf(0.75)
        first = gradients([balls.exp(x * x)], [constant(1)], [x])
        second = gradients(first, [constant(1)], [x])[0].value
        point = flint.arb(0.75)
        assert second.overlaps((2 + 4 * point * point) * (point * point).exp())


def test_an_input_without_influence_has_the_exact_gradient_zero() -> None:
    x, y = leaf(2.0), leaf(3.0)
    assert gradients([x * x], [constant(1)], [x, y])[1].value.is_zero()


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x, y: x * y, 3 * 8.0),
        (lambda x, y: x - y, 2.0 + 2.0 + 4.0),
        (lambda x, _: x * constant(7), 2 * 14.0),
        (lambda x, y: x / balls.normaliser(y), 4 * 0.5),
    ],
    ids=["product", "difference", "constant factor", "normaliser"],
)
def test_a_condition_counts_every_leaf_and_normaliser(function: Callable[..., Ball], expected: float) -> None:
    assert conditions([function(leaf(2.0), leaf(4.0))]).tolist() == [expected]


def test_the_condition_of_a_gradient_counts_its_cotangent() -> None:
    x, cotangent = leaf(3.0), leaf(0.5)
    assert conditions(gradients([x * x], [cotangent], [x])).tolist() == [3 * 2 * 3.0 * 0.5]


STEP_BITS = 120


def directional_error(case: Case) -> flint.arb:
    """Returns the relative gap between a forward difference along a random direction and the enclosed gradient.

    The step is 2^-120 and the arithmetic has 600 bits, so that the gap is the step times the second derivative and
    nothing else; twelve orders of magnitude for the second derivative leave 2^-80.
    """
    generator = np.random.default_rng(0)
    directions: dict[str, Numbers] = {
        name: np.asarray(generator.standard_normal(numbers.shape)) for name, numbers in case.inputs.items()
    }
    with flint.ctx.workprec(5 * STEP_BITS):
        inputs = {name: leaves(numbers) for name, numbers in case.inputs.items()}
        step = constant(flint.arb(2) ** -STEP_BITS)
        moved = {name: inputs[name] + leaves(directions[name]) * step for name in inputs}
        here, there = (
            flattened(call(ENCLOSURES[case.op], case, {**arrays, **case.constants})) for arrays in (inputs, moved)
        )
        cotangents = leaves(np.asarray(generator.standard_normal(len(here))))
        slopes = gradients(here, cotangents, [ball for name in inputs for ball in inputs[name].flat])
        along = np.concatenate([directions[name].ravel() for name in inputs])
        predicted: Ball = np.dot(np.array(slopes, dtype=object), leaves(along))
        seen: Ball = np.dot((np.array(there) - np.array(here)) / step, cotangents)
        return abs(seen.value - predicted.value) / abs(predicted.value)


def flattened(result: Any) -> list[Ball]:
    outputs = result.values() if isinstance(result, dict) else [result]
    return [ball for output in outputs for ball in output.flat if ball.value.is_finite()]


@pytest.mark.parametrize("op", [op for op in OPERATIONS if op != "rope_tables"])
def test_an_enclosed_gradient_is_the_limit_of_differences(op: str) -> None:
    assert directional_error(cases_of(op, series=1)[0]) < flint.arb(2) ** -80
