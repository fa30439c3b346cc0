"""Inputs, the token-by-token truth and error bounds for the tests of the gated delta rule.

Letters: ``B`` batch, ``T`` tokens, ``G`` query/key heads, ``H`` value heads, ``D`` query/key width, ``V`` value width.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

__all__ = ["NAMES", "DeltaInputs", "draw_inputs", "relative_errors", "results", "rounding_bound", "true_results"]

NAMES = ("out", "final_state", "query", "key", "value", "log_decay", "beta", "initial_state")
"""The two results and the gradients, in the order of ``results``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaInputs:
    """Arguments of a gated delta rule and the cotangents of its results."""

    query: Tensor
    key: Tensor
    value: Tensor
    log_decay: Tensor
    beta: Tensor
    initial_state: Tensor
    out_gradient: Tensor
    state_gradient: Tensor

    def to(self, dtype: torch.dtype) -> "DeltaInputs":
        """Returns the same inputs in ``dtype``, the cotangent of the state in float32 beside 16 bits."""
        wide = torch.promote_types(dtype, torch.float32)
        converted = {f.name: getattr(self, f.name).to(dtype) for f in fields(self)}
        return DeltaInputs(**converted | {"state_gradient": self.state_gradient.to(dtype).to(wide)})

    def with_changes(self, **changes: Tensor) -> "DeltaInputs":
        """Returns a copy with other tensors."""
        return replace(self, **changes)


def draw_inputs(shape: tuple[int, int, int, int, int, int], *, seed: int = 0, decay: float = 0.2) -> DeltaInputs:
    """Draws float64 inputs of ``shape = (B, T, G, H, D, V)`` that bfloat16 holds exactly.

    Keys have length 1, beta is in [0, 1], log decays are uniform in [-decay, 0]: every step is a contraction, so an
    error made at one token does not grow at the next ones.
    """
    B, T, G, H, D, V = shape
    generator = torch.Generator().manual_seed(seed)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator, dtype=torch.float64)

    def uniform(*sizes: int) -> Tensor:
        return torch.rand(sizes, generator=generator, dtype=torch.float64)

    inputs = DeltaInputs(
        query=normal(B, T, G, D),
        key=torch.nn.functional.normalize(normal(B, T, G, D), dim=-1),
        value=normal(B, T, H, V),
        log_decay=-decay * uniform(B, T, H),
        beta=uniform(B, T, H),
        initial_state=normal(B, H, D, V),
        out_gradient=normal(B, T, H, V),
        state_gradient=normal(B, H, D, V),
    )
    return inputs.to(torch.bfloat16).to(torch.float64)


def results(rule: Callable[..., tuple[Tensor, Tensor]], inputs: DeltaInputs, **options: object) -> dict[str, Tensor]:
    """Runs a gated delta rule forward and backward and returns its results and gradients by ``NAMES``."""
    arguments = [getattr(inputs, name).detach().clone().requires_grad_() for name in NAMES[2:]]
    out, final_state = rule(*arguments[:5], initial_state=arguments[5], **options)
    cotangents = (inputs.out_gradient, inputs.state_gradient)
    gradients = torch.autograd.grad((out, final_state), arguments, cotangents)
    return dict(zip(NAMES, (out.detach(), final_state.detach(), *gradients), strict=True))


def true_results(inputs: DeltaInputs, *, scale: float, normalize_qk: bool = False) -> dict[str, Tensor]:
    """Returns the results and gradients of the recurrence itself, token after token in float64."""
    return results(_recurrence, inputs.to(torch.float64), scale=scale, normalize_qk=normalize_qk)


def rounding_bound(inputs: DeltaInputs, dtype: torch.dtype, *, chunk_size: int) -> float:
    """Returns the largest error, relative to the largest element of a result, that roundings explain.

    An element passes through sums over at most T tokens, C tokens of a chunk's solve, D and V channels; in float32
    each term of each sum rounds once: ``(T + C + D + V) u32``. In 16 bits the operands of the products are rounded too:
    per chunk at most six on a path (inverse, masked scores, state, residual, written rows, decayed rows), the result
    once, forward and backward: ``(12 chunks + 2) u``. Steps are contractions (see ``draw_inputs``), so nothing grows.
    """
    T, D, V = inputs.query.shape[1], inputs.query.shape[3], inputs.value.shape[3]
    bound = (T + chunk_size + D + V) * torch.finfo(torch.float32).eps / 2
    if dtype in (torch.bfloat16, torch.float16):
        chunks = -(-T // chunk_size)
        bound += (12 * chunks + 2) * torch.finfo(dtype).eps / 2
    elif dtype == torch.float64:
        bound *= torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
    return bound


def relative_errors(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """Returns each largest error relative to its result's largest element, or to 1, the size of inputs and cotangents.

    A NaN or an infinity gives infinity.
    """
    errors = {}
    for name, truth in expected.items():
        error = (actual[name].double() - truth.double()).abs().max() / truth.double().abs().max().clamp(min=1.0)
        errors[name] = float(error.nan_to_num(nan=torch.inf))
    return errors


def _recurrence(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    *,
    scale: float,
    initial_state: Tensor,
    normalize_qk: bool,
) -> tuple[Tensor, Tensor]:
    if normalize_qk:
        query, key = (x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in (query, key))
    heads = torch.arange(value.shape[2]) // (value.shape[2] // query.shape[2])
    state, outs = initial_state, []
    for t in range(query.shape[1]):
        state = state * log_decay[:, t].exp()[..., None, None]
        recalled = torch.einsum("bhdv,bhd->bhv", state, key[:, t, heads])
        written = beta[:, t, :, None] * (value[:, t] - recalled)
        state = state + torch.einsum("bhd,bhv->bhdv", key[:, t, heads], written)
        outs.append(scale * torch.einsum("bhdv,bhd->bhv", state, query[:, t, heads]))
    return torch.stack(outs, dim=1), state
