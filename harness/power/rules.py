"""How other projects decide whether a kernel is right, applied to the very tensors that attest judged.

Each rule is a plain function: what the kernel returned, what is exact (float64, never rounded), what a low-precision
run is off by; True passes. Their references are rounded or float32 ones, so the exact one makes none of them worse.
Where both sides are the same infinity (the LSE of a row without keys) they agree: no project asks for more there.
Their tolerances are theirs: they are what is scored here, and nothing of attest is judged by them.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from harness.budget import Budget
from harness.truth import GRAD

__all__ = [
    "RULES",
    "Rule",
    "d9d",
    "fla",
    "fla_ci",
    "flash_attention",
    "kernelbench",
    "low_precision",
    "rejected",
    "torch_defaults",
]

Rule = Callable[[Tensor, Tensor, Tensor], bool]
"""``rule(actual, exact, low_precision_errors)`` returns whether the tensor passes."""

_TORCH_RTOL: Mapping[torch.dtype, float] = {
    torch.float16: 1e-3, torch.bfloat16: 1.6e-2, torch.float32: 1.3e-6, torch.float64: 1e-7,
}  # fmt: skip


def flash_attention(actual: Tensor, exact: Tensor, low_precision_errors: Tensor) -> bool:
    """FlashAttention: largest error at most twice that of a low-precision run, plus the noise of one addition.

    The noise is ``2 * max|ref + 0.3 - 0.3 - ref|`` in the dtype of the tensor, forward and gradients alike (factor 2
    without softcap). What the low-precision run is, says ``low_precision``. A NaN fails every ``<=``.

    Source: Dao-AILab/flash-attention, tests/cute/test_flash_attn.py, ``fwd_atol`` and ``rtol``.
    """
    rounded = exact.to(actual.dtype)
    noise = torch.nan_to_num(_difference(rounded + 0.3 - 0.3, rounded), nan=0.0, posinf=0.0)
    allowed = 2 * low_precision_errors.abs().max() + 2 * noise.max()
    return bool(_difference(actual, exact).max() <= allowed)


def fla(actual: Tensor, exact: Tensor, low_precision_errors: Tensor) -> bool:  # noqa: ARG001 - one signature
    """Flash linear attention: ``RMS(error) / (RMS(reference) + 1e-8) < 0.005``, or no error above 1e-6.

    A NaN on either side fails. 0.005 is the ratio of most of its tests, forward and gradients.

    Source: fla-org/flash-linear-attention, fla/utils/_testing.py, ``assert_close`` and ``get_err_ratio``.
    """
    return _fla(actual, exact, is_ci=False)


def fla_ci(actual: Tensor, exact: Tensor, low_precision_errors: Tensor) -> bool:  # noqa: ARG001 - one signature
    """Flash linear attention in its CI: a ratio below 0.01 or a largest error of at most 0.3 only warns.

    Source: the same function, with ``FLA_CI_ENV``.
    """
    return _fla(actual, exact, is_ci=True)


def torch_defaults(actual: Tensor, exact: Tensor, low_precision_errors: Tensor) -> bool:  # noqa: ARG001 - as above
    """``torch.testing.assert_close`` without tolerances: ``rtol`` by dtype, 1.6e-2 for bf16, ``atol`` 1e-5.

    Source: torch.testing, table of ``assert_close``; float64 has ``atol`` 1e-7.
    """
    atol = 1e-7 if actual.dtype == torch.float64 else 1e-5
    return _close(actual, exact, rtol=_TORCH_RTOL[actual.dtype], atol=atol)


def kernelbench(actual: Tensor, exact: Tensor, low_precision_errors: Tensor) -> bool:  # noqa: ARG001 - as above
    """``torch.allclose(rtol=1e-2, atol=1e-2)``, as KernelBench and many kernel repositories compare.

    Source: ScalingIntelligence/KernelBench, src/eval.py.
    """
    return _close(actual, exact, rtol=1e-2, atol=1e-2)


def d9d(actual: Tensor, exact: Tensor, low_precision_errors: Tensor) -> bool:  # noqa: ARG001 - as above
    """d9d: ``assert_close(rtol=5e-2, atol=5e-2)`` beside a float32 eager run, forward and gradients.

    Source: d9d-project/d9d, test/d9d_test/modules/block/attention/sdpa/helpers.py and test_flash4.py.
    """
    return _close(actual, exact, rtol=5e-2, atol=5e-2)


RULES: Mapping[str, Rule] = {
    "FlashAttention": flash_attention,
    "fla 0.005": fla,
    "fla CI": fla_ci,
    "torch defaults": torch_defaults,
    "allclose 1e-2": kernelbench,
    "d9d 5e-2": d9d,
}
"""The rules by the name that tables show."""


def rejected(tensors: Mapping[str, Tensor], budgets: Mapping[str, Budget]) -> dict[str, list[str]]:
    """Returns, by rule, the outputs and gradients that it rejects.

    A tensor of another shape, or a gradient that is missing where it should not be zero, raises in every test of every
    project. What overflows in a healthy execution of the recipe is left out for all.

    Args:
        tensors: what the candidate returned.
        budgets: of every expected output and gradient; they hold the exact value and the low-precision run.
    """
    found: dict[str, list[str]] = {name: [] for name in RULES}
    for name, budget in budgets.items():
        actual = tensors.get(name)
        if actual is None and name.startswith(GRAD) and not bool(budget.expected.any()):
            continue
        for title, rule in RULES.items():
            if not _passes(rule, actual, budget):
                found[title].append(name)
    return found


def low_precision(budget: Budget) -> Tensor:
    """Returns the errors of the low-precision run that FlashAttention compares with; theirs is plain PyTorch.

    Ours is the emulator's round-to-nearest execution of the candidate's own recipe (``Budget.nearest``). Where the
    tensor is stored in float32 or wider, FlashAttention has no rule, and that execution, whose sums are rounded once,
    is closer than any real run: one random execution is taken beside it, so that the rule is not made to look bad.
    """
    if budget.fmt in ("bfloat16", "float16"):
        return budget.nearest
    return torch.cat([budget.nearest, budget.samples[:1]])


def _passes(rule: Rule, actual: Tensor | None, budget: Budget) -> bool:
    if actual is None or actual.shape != budget.expected.shape:
        return False
    return not actual.numel() or rule(*_usable(actual, budget), low_precision(budget))


def _usable(actual: Tensor, budget: Budget) -> tuple[Tensor, Tensor]:
    """Returns both sides, equal where a healthy execution overflows."""
    if not bool(budget.overflow.any()):
        return actual, budget.expected
    zero = budget.overflow
    return torch.where(zero, torch.zeros_like(actual), actual), torch.where(zero, 0.0, budget.expected)


def _fla(actual: Tensor, exact: Tensor, *, is_ci: bool) -> bool:
    error = _difference(actual, exact)
    largest = error.max()
    if bool(largest <= 1e-6):
        return True
    if bool(torch.isnan(actual).any()) or bool(torch.isnan(exact).any()):
        return False
    finite = exact[torch.isfinite(exact)]
    base = finite.square().mean().sqrt() if finite.numel() else torch.zeros((), dtype=torch.float64)
    ratio = error.square().mean().sqrt() / (base + 1e-8)
    if is_ci and bool((ratio < 0.01) | (largest <= 0.3)):
        return True
    return bool(ratio < 0.005)


def _close(actual: Tensor, exact: Tensor, *, rtol: float, atol: float) -> bool:
    return bool(torch.isclose(actual.to(torch.float64), exact, rtol=rtol, atol=atol).all())


def _difference(actual: Tensor, exact: Tensor) -> Tensor:
    """Returns ``|actual - exact|`` in float64, 0 where both are the same infinity."""
    left, right = actual.to(torch.float64), exact.to(torch.float64)
    return torch.where(left == right, 0.0, (left - right).abs())
