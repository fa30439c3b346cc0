"""How two layers are run alike, and how far apart they are found.

Legend: B batch, T tokens.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = [
    "AGREEMENT",
    "FAULT",
    "State",
    "Trial",
    "distance",
    "normal",
    "output_distance",
    "padding",
    "random_state",
    "run_function",
    "run_module",
]

AGREEMENT = 1e-10
"""Largest distance that the project allows between its layers and transformers' in float64.

Rounding alone moves these small layers by less than 1e-13 of their largest result: the three digits between are room
for another order of summation, and none for another formula.
"""

FAULT = AGREEMENT**0.5
"""Distance beyond which a difference is another formula: half way, in digits, between agreement and no agreement."""

State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What one layer made of one input.

    Attributes:
        output: ``(B, T, hidden_size)``.
        gradients: of the hidden states, under ``"hidden_states"``, and of every parameter, under its name.
    """

    output: Tensor
    gradients: dict[str, Tensor]

    def renamed(self, convert: Callable[[State], dict[str, Tensor]]) -> "Trial":
        """Returns the trial with the gradients of the parameters converted as their state dict is.

        A conversion moves numbers and changes none, so gradients move as parameters do.
        """
        own = dict(self.gradients)
        hidden = own.pop("hidden_states")
        return Trial(output=self.output, gradients={"hidden_states": hidden} | convert(own))


def normal(*shape: int, seed: int) -> Tensor:
    """Returns standard normal float64 numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_state(like: State, *, seed: int) -> dict[str, Tensor]:
    """Returns random numbers for every parameter: vectors standard normal, weights divided by the root of their fan-in.

    Norms' weights, sinks, ``A_log`` and ``dt_bias`` are vectors: none of them stays at an initial value that would hide
    an exchange.
    """
    return {
        name: normal(*value.shape, seed=seed + place) / (value.shape[-1] ** 0.5 if value.ndim > 1 else 1.0)
        for place, (name, value) in enumerate(like.items())
    }


def padding(B: int, T: int, *, side: str) -> Tensor:
    """Returns a boolean mask ``(B, T)``: sequence b has ``2 b + 1`` tokens of padding on the left or on the right."""
    places = torch.arange(T) if side == "left" else torch.arange(T).flip(0)
    return places >= 2 * torch.arange(B)[:, None] + 1


def run_function(
    function: Callable[[Tensor, State], Tensor], state: State, hidden_states: Tensor, cotangent: Tensor
) -> Trial:
    """Runs a function of hidden states and parameters forward and backward."""
    leaves = {"hidden_states": hidden_states.clone().requires_grad_()}
    leaves |= {name: value.clone().requires_grad_() for name, value in state.items()}
    parameters = {name: leaf for name, leaf in leaves.items() if name != "hidden_states"}
    output = function(leaves["hidden_states"], parameters)
    found = torch.autograd.grad(output, list(leaves.values()), cotangent)
    return Trial(output=output.detach(), gradients=dict(zip(leaves, found, strict=True)))


def run_module(
    module: nn.Module,
    call: Callable[[Tensor], Tensor],
    state: State,
    hidden_states: Tensor,
    cotangent: Tensor,
) -> Trial:
    """Loads a state dict strictly into a module and runs ``call``, which uses it, forward and backward."""
    module.load_state_dict(dict(state), strict=True)
    leaves = {"hidden_states": hidden_states.clone().requires_grad_()} | dict(module.named_parameters())
    output = call(leaves["hidden_states"])
    found = torch.autograd.grad(output, list(leaves.values()), cotangent)
    return Trial(output=output.detach(), gradients=dict(zip(leaves, found, strict=True)))


def distance(actual: Trial, expected: Trial, *, tokens: Tensor | None = None) -> float:
    """Returns the largest difference of the output or of any gradient, relative to the largest magnitude of each.

    Args:
        actual: one trial.
        expected: the other, of the same parameters.
        tokens: None or a boolean mask ``(B, T)`` of the tokens whose output counts.
    """
    assert actual.gradients.keys() == expected.gradients.keys(), (actual.gradients.keys(), expected.gradients.keys())
    gradients = [_relative(actual.gradients[name], expected.gradients[name]) for name in expected.gradients]
    return max(output_distance(actual, expected, tokens=tokens), *gradients)


def output_distance(actual: Trial, expected: Trial, *, tokens: Tensor | None = None) -> float:
    """Returns the largest difference of the output alone, relative to its largest magnitude."""
    chosen = ... if tokens is None else tokens
    return _relative(actual.output[chosen], expected.output[chosen])


def _relative(actual: Tensor, expected: Tensor) -> float:
    assert actual.dtype == expected.dtype == torch.float64, (actual.dtype, expected.dtype)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    # Every comparison with a NaN is false: the largest of several distances would hide it.
    assert actual.isfinite().all(), "a result that is not finite is far from nothing and near to nothing"
    scale = expected.abs().max()
    assert scale > 0, "a result that is zero everywhere shows nothing"
    return float((actual - expected).abs().max() / scale)
