"""How far two float64 computations of one quantity may stand apart, and the one assertion that says so."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["EPS", "assert_agree", "assert_gradcheck", "assert_refused", "cotangents", "gradients"]

EPS = torch.finfo(torch.float64).eps


def assert_agree(actual: Tensor, expected: Tensor, *, operations: int, condition: float | Tensor) -> None:
    """Asserts ``|actual - expected| <= eps * operations * condition`` for every element.

    One rounding moves a value by at most ``eps/2`` of its magnitude, and two computations are compared, so each
    rounding that lies on the longest path to a result costs ``eps`` of the largest magnitude on that path.

    Args:
        actual: float64 tensor.
        expected: float64 tensor of the same shape; infinities must stand in the same places.
        operations: roundings on the longest path to one element, terms of its sums included.
        condition: magnitude that a relative error of one rounding is multiplied with on its way to the result: a number
            or a tensor that broadcasts; ``expected.abs()`` asks for relative accuracy.
    """
    assert actual.dtype == expected.dtype == torch.float64, (actual.dtype, expected.dtype)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    finite = expected.isfinite()
    assert torch.equal(actual[~finite], expected[~finite])
    distance = (actual - expected).detach().abs().masked_fill(~finite, 0)
    allowed = torch.as_tensor(EPS * operations * condition, dtype=torch.float64).detach().expand_as(distance)
    worst = (distance - allowed).max() if distance.numel() else torch.tensor(-1.0)
    assert bool((distance <= allowed).all()), f"beyond the allowed {allowed.max():.1e} by {worst:.1e}: {distance.max()}"


def assert_gradcheck(function: Callable[..., Any], inputs: Sequence[Tensor], *, condition: float = 64.0) -> None:
    """Asserts that gradients agree with central differences.

    With the step ``h = eps^(1/3)`` the truncation ``h^2 f''' / 6`` and the rounding ``eps |f| / h`` are both of order
    ``h^2``; ``condition`` bounds ``|f'''| / 6 + |f|``, and 64 does for sums of a few dozen terms of order one.
    """
    step = EPS ** (1 / 3)
    assert torch.autograd.gradcheck(function, tuple(inputs), eps=step, atol=condition * step**2, rtol=0.0)


def assert_refused(call: Callable[[], object], error: type[Exception], *parts: str) -> None:
    """Asserts that a call raises exactly ``error`` with one sentence that contains all parts, "expected" among them."""
    try:
        call()
    except error as refusal:
        sentence = str(refusal)
    else:
        raise AssertionError("nothing was raised")
    missing = [part for part in (*parts, "got", "expected") if part not in sentence]
    assert not missing, f"{missing} not in {sentence!r}"
    assert "\n" not in sentence


def cotangents(outputs: Sequence[Tensor], *, seed: int = 1) -> list[Tensor]:
    """Returns a random cotangent for every output."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(output.shape, generator=generator, dtype=output.dtype) for output in outputs]


def gradients(outputs: Sequence[Tensor], inputs: Sequence[Tensor], *, seed: int = 1) -> tuple[Tensor, ...]:
    """Returns the gradients of the inputs for random cotangents of all outputs."""
    return torch.autograd.grad(tuple(outputs), tuple(inputs), cotangents(outputs, seed=seed))
