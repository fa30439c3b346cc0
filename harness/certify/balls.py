"""Reverse-mode differentiation over Arb balls: every value and every gradient comes with a proof of its error.

A `Ball` is a real number enclosed by an ``arb`` (midpoint and radius, python-flint) that remembers what it was computed
from. `gradients` builds each gradient out of Balls again, so that a gradient is enclosed like any other value and can
be differentiated once more, which `conditions` does. Arrays of Balls are numpy object arrays: indexing, broadcasting,
``@`` and ``.sum()`` work as they do for numbers. An array stands to the left of a Ball.

The precision is that of ``flint.ctx.workprec``, which the caller sets. Importing this module imports python-flint.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias, Union

import flint
import numpy as np

__all__ = [
    "Array",
    "Ball",
    "conditions",
    "constant",
    "exp",
    "filled",
    "gradients",
    "leaves",
    "log",
    "normaliser",
    "sigmoid",
    "silu",
    "softplus",
    "sqrt",
]

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
"""Balls (dtype object), or plain numbers or booleans where nothing is differentiated."""

Operand: TypeAlias = Union["Ball", int, float]
Partial: TypeAlias = Union["Ball", Callable[[], "Ball"]]

Edges: TypeAlias = tuple[tuple["Ball", Partial], ...]

_SERIALS = itertools.count()


class Ball:
    """An enclosed real number and its place in a computation.

    Attributes:
        value: the enclosure.
        edges: the Balls that it was computed from, each with the partial derivative by it (a Ball, or a function
            that makes it when a derivative is asked for).
        is_tracked: whether a leaf stands at the beginning of its computation; what is not tracked is a constant.
        is_counted: whether the condition counts a rounding of this value: leaves and normalisers.
        serial: number in the order of creation, which is an order of evaluation.
    """

    __slots__ = ("edges", "is_counted", "is_tracked", "serial", "value")

    def __init__(
        self, value: flint.arb, edges: tuple[tuple["Ball", Partial], ...] = (), *, is_counted: bool = False
    ) -> None:
        self.value = value
        self.edges: Edges = tuple(edge for edge in edges if edge[0].is_tracked)
        self.is_counted = is_counted
        self.is_tracked: bool = is_counted or bool(self.edges)
        self.serial = next(_SERIALS)

    def __add__(self, other: Operand) -> "Ball":
        right = _ball(other)
        return Ball(self.value + right.value, ((self, _ONE), (right, _ONE)))

    def __sub__(self, other: Operand) -> "Ball":
        right = _ball(other)
        return Ball(self.value - right.value, ((self, _ONE), (right, _MINUS_ONE)))

    def __mul__(self, other: Operand) -> "Ball":
        right = _ball(other)
        return Ball(self.value * right.value, ((self, right), (right, self)))

    def __truediv__(self, other: Operand) -> "Ball":
        return self * reciprocal(_ball(other))

    def __rsub__(self, other: Operand) -> "Ball":
        return _ball(other) - self

    def __rtruediv__(self, other: Operand) -> "Ball":
        return _ball(other) / self

    __radd__ = __add__
    __rmul__ = __mul__

    def __neg__(self) -> "Ball":
        return Ball(-self.value, ((self, _MINUS_ONE),))


def constant(value: flint.arb | float) -> Ball:
    """Returns a Ball without derivatives; a float is taken exactly as it is stored, infinities included."""
    return Ball(flint.arb(value))


_ONE, _MINUS_ONE, _HALF = constant(1), constant(-1), constant(0.5)


def _ball(value: Operand) -> Ball:
    return value if isinstance(value, Ball) else constant(value)


def reciprocal(x: Ball) -> Ball:
    """Returns ``1 / x``."""
    result = Ball(1 / x.value, ((x, lambda: -(result * result)),))
    return result


def _elementwise(function: Callable[[Ball], Ball]) -> Callable[[Any], Any]:
    """Returns the function for an array of Balls, and for a single Ball as well."""
    return np.frompyfunc(function, 1, 1)


def _exp(x: Ball) -> Ball:
    result = Ball(x.value.exp(), ((x, lambda: result),))
    return result


def _log(x: Ball) -> Ball:
    return Ball(x.value.log(), ((x, lambda: reciprocal(x)),))


def _sqrt(x: Ball) -> Ball:
    result = Ball(x.value.sqrt(), ((x, lambda: _HALF * reciprocal(result)),))
    return result


def _sigmoid(x: Ball) -> Ball:
    return Ball(1 / (1 + (-x.value).exp()), ((x, lambda: _sigmoid(x) * _sigmoid(-x)),))


def _softplus(x: Ball) -> Ball:
    return Ball(x.value.exp().log1p(), ((x, lambda: _sigmoid(x)),))


def _normaliser(x: Ball) -> Ball:
    """Returns x itself, with a rounding of its own that conditions count."""
    return Ball(x.value, ((x, _ONE),), is_counted=True)


exp = _elementwise(_exp)
log = _elementwise(_log)
sqrt = _elementwise(_sqrt)
sigmoid = _elementwise(_sigmoid)
softplus = _elementwise(_softplus)
normaliser = _elementwise(_normaliser)


def silu(x: Array) -> Array:
    """Returns ``x * sigmoid(x)``."""
    gate: Array = sigmoid(x)
    return x * gate


def filled(shape: tuple[int, ...], value: float = 0.0) -> Array:
    """Returns an array of constants, exact zeros by default."""
    array = np.empty(shape, dtype=object)
    array.fill(constant(value))
    return array


def leaves(numbers: Array) -> Array:
    """Returns float64 numbers as exact Balls, each a variable of its own."""
    array = np.empty(numbers.shape, dtype=object)
    for index, number in np.ndenumerate(numbers):
        array[index] = Ball(flint.arb(float(number)), is_counted=True)
    return array


def gradients(outputs: Iterable[Ball], cotangents: Iterable[Ball], inputs: Sequence[Ball]) -> list[Ball]:
    """Returns ``d(sum_i cotangent_i * output_i) / d input`` for every input, as Balls.

    An input that no output depends on has the exact gradient 0, whatever a multiplication by zero would have made of
    it: that is how hidden keys are expected to behave.
    """
    pairs = list(zip(outputs, cotangents, strict=True))
    adjoints: dict[Ball, Ball] = {}
    for output, cotangent in pairs:
        adjoints[output] = adjoints[output] + cotangent if output in adjoints else cotangent
    for node in _evaluation_order(list(adjoints))[::-1]:
        for parent, partial in node.edges:
            term = _scaled(adjoints[node], partial)
            adjoints[parent] = adjoints[parent] + term if parent in adjoints else term
    zero = constant(0)
    return [adjoints.get(node, zero) for node in inputs]


def conditions(elements: Sequence[Ball]) -> Array:
    """Returns the componentwise condition ``|y| + sum_x |dy/dx| |x|`` of every element, over leaves and normalisers.

    The derivatives are exact to double precision, no more: the condition is the unit in which errors are counted.
    A leaf that is not finite (a bias of ``-inf``) hides what it is added to and counts nothing.
    """
    scale = np.array([abs(float(element.value.mid())) for element in elements])
    rows: dict[Ball, Array] = {}
    for column, element in enumerate(elements):
        rows.setdefault(element, np.zeros(len(elements)))[column] = 1.0
    for node in _evaluation_order(list(rows))[::-1]:
        row = rows.pop(node)
        if node.is_counted and node.value.is_finite():
            scale += np.abs(row) * abs(float(node.value.mid()))
        for parent, partial in node.edges:
            term = row * _number(partial)
            rows[parent] = rows[parent] + term if parent in rows else term
    return scale


def _evaluation_order(roots: Sequence[Ball]) -> list[Ball]:
    found = set(roots)
    stack = list(roots)
    while stack:
        for parent, _ in stack.pop().edges:
            if parent not in found:
                found.add(parent)
                stack.append(parent)
    return sorted(found, key=lambda node: node.serial)


def _scaled(adjoint: Ball, partial: Partial) -> Ball:
    if partial is _ONE:
        return adjoint
    if partial is _MINUS_ONE:
        return -adjoint
    return adjoint * (partial if isinstance(partial, Ball) else partial())


def _number(partial: Partial) -> float:
    return float((partial if isinstance(partial, Ball) else partial()).value.mid())
